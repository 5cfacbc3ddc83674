-- One shelf on a Redis server. shelf.py is its model, in the same words.
--
-- ARGV: the operation, the sharer that calls, what to add to the clock, the id of an epoch should
-- one have to begin, and from the fifth on what the operation takes.
-- Times and spans are whole microseconds, rates millionths of a request a second: a number of Lua
-- holds each of them exactly. The spans in capitals come from base.py, in front of this text.

local META,    -- hash: what is written once for all; see `begin`
  RECORDS,     -- hash: token, how it was added
  FREE,        -- hash: token, its requests that are granted to nobody; none for a retired one
  EXPIRY,      -- by token: when it expires
  CHECKED,     -- by token: when it was last inspected, or added
  TAKEN,       -- by token: until when its chore is somebody's
  RETIRED,     -- set of tokens
  REPORTED,    -- set of tokens
  SEEN,        -- by sharer: when it was last seen
  SHARERS,     -- hash: sharer, its rate and the tokens that it may hold
  HOLDERS,     -- who holds what: a member for each token and sharer
  CALLS        -- hash: number of a permitted call, what it ordered and when
  = unpack(KEYS)

local me = ARGV[2]
local touched = {}

local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2] + ARGV[3]
end

local now = clock()

local function argument(number)
  return ARGV[4 + number]
end

local function count_argument(number)
  return tonumber(argument(number))
end

-- Runs a command that may make a key, and notes the key for `keep`. A server that is out of memory
-- refuses such a command, and only such: so the first change that is made to anything is one.
local function write(command, key, ...)
  touched[key] = true
  return redis.call(command, key, ...)
end

-- What a key holds has had its time KEEP after it was last written, in every key.
local function keep()
  for key in pairs(touched) do
    redis.call('PEXPIRE', key, KEEP)
  end
end

local function unpacked(key, field)
  local packed = redis.call('HGET', key, field)
  return packed and cmsgpack.unpack(packed)
end

local function pack(key, field, value)
  write('HSET', key, field, cmsgpack.pack(value))
end

local function size(values)
  local count = 0
  for _ in pairs(values) do
    count = count + 1
  end
  return count
end

-- Epochs

-- The replication id names the history of a data set. A server takes a new one when it starts and
-- when it becomes a master, so it differs after everything that may have lost writes: a restart
-- with old data or none, a failover to a replica that lagged, and a failover back.
local function history()
  local info = redis.call('INFO', 'replication')
  return assert(string.match(info, 'master_replid:(%w+)'), 'NOHISTORY')
end

local function begin(history)
  local epoch = ARGV[4]
  local number = tonumber(string.sub(epoch, 1, NUMBER_BITS / 4), 16)
  redis.call('UNLINK', unpack(KEYS))
  write('HSET', META, 'history', history, 'epoch', epoch, 'blind_until', now + WINDOW,
    'closed_until', 0, 'number', number, 'running', 0, 'generation', 0, 'version', 0,
    'rate', 0, 'fault', '')
end

local function check_epoch()
  local history = history()
  if redis.call('HGET', META, 'history') ~= history then
    begin(history)
  end
end

-- Holding

-- The length in front keeps apart what one token and what another's beginning is.
local function holding(token, sharer)
  return #token .. ':' .. token .. sharer
end

local function holders(token)
  local any = holding(token, '')
  return redis.call('ZLEXCOUNT', HOLDERS, '[' .. any, '(' .. any .. '\255')
end

local function on_shelf(token)
  return redis.call('HEXISTS', RECORDS, token) == 1
end

local function is_retired(token)
  return redis.call('SISMEMBER', RETIRED, token) == 1
end

local function is_reported(token)
  return redis.call('SISMEMBER', REPORTED, token) == 1
end

local function bump_version()
  write('HINCRBY', META, 'version', 1)
end

-- Sharers' lists go on naming the token, which does no harm: HOLDERS says who holds what.
local function remove(token)
  if not on_shelf(token) then
    return
  end
  bump_version()
  local any = holding(token, '')
  redis.call('HDEL', RECORDS, token)
  redis.call('HDEL', FREE, token)
  redis.call('ZREM', EXPIRY, token)
  redis.call('ZREM', CHECKED, token)
  redis.call('ZREM', TAKEN, token)
  redis.call('SREM', RETIRED, token)
  redis.call('SREM', REPORTED, token)
  redis.call('ZREMRANGEBYLEX', HOLDERS, '[' .. any, '(' .. any .. '\255')
end

local function sharer(name)
  return unpacked(SHARERS, name) or {rate = 0, holds = {}}
end

local function see()
  write('ZADD', SEEN, now, me)
end

local function hold(token)
  if write('ZADD', HOLDERS, 0, holding(token, me)) == 1 then
    local mine = sharer(me)
    table.insert(mine.holds, token)
    pack(SHARERS, me, mine)
  end
end

local function let_go(name, token)
  local held = redis.call('ZREM', HOLDERS, holding(token, name)) == 1
  if held and redis.call('HGET', FREE, token) == '0' and holders(token) == 0 then
    remove(token)
  end
end

local function dismiss(name)
  if redis.call('ZSCORE', SEEN, name) then
    local its = sharer(name)
    write('HINCRBY', META, 'rate', 0 - its.rate) -- never -0, which is no integer to Redis
    redis.call('ZREM', SEEN, name)
    redis.call('HDEL', SHARERS, name)
    for _, token in ipairs(its.holds) do
      let_go(name, token)
    end
  end
end

-- Forgets what has had its time.
local function forget()
  for _, token in ipairs(redis.call('ZRANGEBYSCORE', EXPIRY, '-inf', now)) do
    remove(token)
  end
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', SEEN, '-inf', now - SHARER)) do
    dismiss(name)
  end
end

-- Operations

local operations = {}

local function serve()
  check_epoch()
  forget()
  local answer = operations[ARGV[1]]()
  keep()
  return answer
end

-- Begins an epoch if one must begin, like every other, and does nothing more.
function operations.enter()
end

-- Tokens

-- Returns a token as `_shelved` of redis.py takes it.
local function seen(token)
  local record = unpacked(RECORDS, token)
  local free = redis.call('HGET', FREE, token)
  return {token, record.sealed, record.key, now - record.minted_at, record.expires_at - now,
    record.limit, tonumber(free) or 0, record.generation, record.revocable, free and 0 or 1}
end

local function give_back(token, count)
  local free = redis.call('HGET', FREE, token)
  if free then
    write('HSET', FREE, token, math.min(unpacked(RECORDS, token).limit, free + count))
  end
end

-- Tokens that expire at once stand there by their ids.
function operations.load()
  local tokens = {}
  for _, token in ipairs(redis.call('ZRANGE', EXPIRY, 0, -1)) do
    table.insert(tokens, seen(token))
  end
  return tokens
end

local function add(token, sealed, key, age, lives, limit, free, generation, revocable)
  bump_version()
  pack(RECORDS, token, {sealed = sealed, key = key, minted_at = now - age,
    expires_at = now + lives, limit = tonumber(limit), generation = tonumber(generation),
    revocable = tonumber(revocable)})
  write('HSET', FREE, token, free)
  write('ZADD', EXPIRY, now + lives, token)
  write('ZADD', CHECKED, now, token)
end

function operations.add()
  for first = 5, #ARGV, 9 do
    if not on_shelf(ARGV[first]) then
      add(unpack(ARGV, first, first + 8))
    end
  end
end

function operations.grant()
  local token, count = argument(1), count_argument(2)
  local free = tonumber(redis.call('HGET', FREE, token))
  if not free then
    return {0, 0}
  end
  local given = math.min(count, free)
  if given > 0 then
    write('HINCRBY', FREE, token, -given)
    see()
    hold(token)
  end
  return {given, free - given}
end

function operations.give_back()
  give_back(argument(1), count_argument(2))
end

function operations.retire()
  local token = argument(1)
  if redis.call('HEXISTS', FREE, token) == 1 then
    bump_version()
    write('SADD', RETIRED, token)
    redis.call('HDEL', FREE, token)
  end
end

function operations.remove()
  remove(argument(1))
end

function operations.report()
  if on_shelf(argument(1)) then
    write('SADD', REPORTED, argument(1))
  end
end

function operations.observe()
  local token, left = argument(1), count_argument(2)
  if not on_shelf(token) then
    return
  end
  write('ZADD', CHECKED, now, token)
  redis.call('SREM', REPORTED, token)
  redis.call('ZREM', TAKEN, token)
  local free = tonumber(redis.call('HGET', FREE, token))
  if left and free then
    write('HSET', FREE, token, math.min(free, math.max(0, left)))
  end
end

function operations.rotate()
  return write('HINCRBY', META, 'generation', 1)
end

-- Making functions costs more than most of these operations do: it goes on only for the others.
if operations[ARGV[1]] then
  return serve()
end

-- Minting

-- Returns when each call of the window ends or ended, by its number.
local function window()
  local ends = unpacked(META, 'window') or {}
  for number, at in pairs(ends) do
    if at + WINDOW <= now then
      ends[number] = nil
    end
  end
  return ends
end

-- Returns until when each right is valid, by its sharer.
local function rights()
  local valid = unpacked(META, 'rights') or {}
  for name, valid_until in pairs(valid) do
    if valid_until <= now then
      valid[name] = nil
    end
  end
  return valid
end

-- Returns when each call that counts will count no more.
local function counted(ends)
  local times = {}
  for _, at in pairs(ends) do
    table.insert(times, at + WINDOW)
  end
  table.sort(times)
  return times
end

local function meta_number(field)
  return tonumber(redis.call('HGET', META, field))
end

-- Returns the number of the call that runs, and until when at most.
local function running(ends)
  local number = meta_number('running')
  local at = ends[number]
  if at and now < at then
    return number, at
  end
end

local function spare_calls(ends, rights)
  return BUDGET - BLIND - size(rights) - size(ends)
end

local function is_blind()
  return now < meta_number('blind_until')
end

-- Returns how many calls may start now, and when one may.
local function permits(ends, rights)
  local closed_until = meta_number('closed_until')
  if now < closed_until then
    return 0, closed_until
  end
  local left = spare_calls(ends, rights)
  if is_blind() then
    left = math.min(left, BLIND - size(ends))
    return math.max(0, left), left > 0 and now or meta_number('blind_until')
  end
  return math.max(0, left), left > 0 and now or counted(ends)[1 - left]
end

-- Gives or renews this sharer's right among `rights`; tells whether it has one.
local function give_right(ends, rights)
  if is_blind() then
    return false
  end
  if rights[me] or (size(rights) < RIGHTS and spare_calls(ends, rights) > 0) then
    rights[me] = now + RIGHT_COUNTS
    pack(META, 'rights', rights)
  end
  return rights[me] ~= nil
end

local function may_have_tokens(call)
  return call.unclear and now < call.started_at + PERMIT + call.lifetime
end

local function known_call(number, ends)
  local call = unpacked(CALLS, number)
  return call and (ends[number] or may_have_tokens(call)) and call
end

local function forget_calls(ends)
  for _, number in ipairs(redis.call('HKEYS', CALLS)) do
    if not known_call(tonumber(number), ends) then
      redis.call('HDEL', CALLS, number)
    end
  end
end

function operations.permit()
  local ends = window()
  local number, at = running(ends)
  if number then
    return {0, at - now, 1}
  end
  local left, at = permits(ends, rights())
  if left == 0 then
    return {0, at - now, 0}
  end
  number = write('HINCRBY', META, 'number', 1)
  ends[number] = now + PERMIT
  pack(META, 'window', ends)
  write('HSET', META, 'running', number)
  pack(CALLS, number, {started_at = now, unclear = true, count = count_argument(1),
    limit = count_argument(2), lifetime = count_argument(3)})
  forget_calls(ends)
  return {number}
end

local function finish(number, call, ends, sent)
  ends[number] = sent and now or nil
  pack(META, 'window', ends)
  if sent then
    pack(CALLS, number, call)
  else
    redis.call('HDEL', CALLS, number)
  end
end

operations['end'] = function()
  local number, sent, unclear = count_argument(1), argument(2) == '1', argument(3) == '1'
  local closed_for, fault, ends = count_argument(4), argument(5), window()
  local unknown = {started_at = now, count = 0, limit = 0, lifetime = 0}
  local call = known_call(number, ends) or unknown
  call.unclear = unclear
  finish(number, call, ends, sent)
  if meta_number('running') == number then
    write('HSET', META, 'running', 0)
  end
  if closed_for > 0 then
    write('HSET', META, 'closed_until', math.max(meta_number('closed_until'), now + closed_for))
  end
  write('HSET', META, 'fault', fault)
end

function operations.abandoned()
  local found, ends = {}, window()
  local runs = running(ends)
  forget_calls(ends)
  for _, text in ipairs(redis.call('HKEYS', CALLS)) do
    local number, call = tonumber(text), unpacked(CALLS, text)
    if may_have_tokens(call) and number ~= runs then
      table.insert(found, {number, call.count, call.limit, call.lifetime, now - call.started_at})
    end
  end
  return found
end

function operations.settle_abandoned()
  local call = unpacked(CALLS, argument(1))
  if call then
    call.unclear = false
    pack(CALLS, argument(1), call)
  end
end

-- Chores, by their ranks: the lowest is the most urgent.

local INSPECT_NOW, REVOKE, INSPECT_AGAIN = 0, 1, 2

-- Returns the rank of what ought to be done about each token, if anything, and of how many.
local function due(inspect_every)
  local ranks, count = {}, 0
  local function offer(rank, token)
    if not redis.call('ZSCORE', TAKEN, token) then
      ranks[token], count = rank, count + 1
    end
  end
  redis.call('ZREMRANGEBYSCORE', TAKEN, '-inf', now)
  for _, token in ipairs(redis.call('SMEMBERS', RETIRED)) do
    if holders(token) == 0 then
      offer(REVOKE, token)
    end
  end
  for _, token in ipairs(redis.call('SMEMBERS', REPORTED)) do
    if not is_retired(token) then
      offer(INSPECT_NOW, token)
    end
  end
  for _, token in ipairs(redis.call('ZRANGEBYSCORE', CHECKED, '-inf', now - inspect_every)) do
    if not is_retired(token) and not is_reported(token) then
      offer(INSPECT_AGAIN, token)
    end
  end
  return ranks, count
end

function operations.chore()
  local ranks, count = due(count_argument(1))
  local first
  for _, token in ipairs(count > 0 and redis.call('ZRANGE', EXPIRY, 0, -1) or {}) do
    if ranks[token] and (not first or ranks[token] < ranks[first]) then
      first = token
    end
  end
  if first then
    write('ZADD', TAKEN, now + CHORE, first)
    return {ranks[first] == REVOKE and 1 or 0, seen(first)}
  end
end

-- Sharers

-- Takes all that this sharer holds from the arguments, and saves it with its rate.
local function hold_just(rate, first)
  local before, held, holds = sharer(me), {}, {}
  for number = first, #ARGV - 4 do
    local token = argument(number)
    if on_shelf(token) then
      write('ZADD', HOLDERS, 0, holding(token, me))
      table.insert(holds, token)
      held[token] = true
    end
  end
  pack(SHARERS, me, {rate = rate, holds = holds})
  for _, token in ipairs(before.holds) do
    if not held[token] then
      let_go(me, token)
    end
  end
  return before.rate
end

function operations.attend()
  local rate, wants_right, inspect_every = count_argument(1), argument(2), count_argument(3)
  see()
  write('HINCRBY', META, 'rate', rate - hold_just(rate, 4))
  local ends, rights = window(), rights()
  local right = wants_right == '1' and give_right(ends, rights)
  local left, at = permits(ends, rights)
  local _, chores = due(inspect_every)
  local meta = redis.call('HMGET', META, 'epoch', 'generation', 'version', 'rate', 'fault')
  return {meta[1], tonumber(meta[2]), tonumber(meta[3]), redis.call('ZCARD', SEEN),
    tonumber(meta[4]), redis.call('HGETALL', FREE), redis.call('SMEMBERS', REPORTED), left,
    at - now, running(ends) and 1 or 0, is_blind() and 1 or 0, meta[5], right and 1 or 0, chores}
end

function operations.leave()
  for number = 1, #ARGV - 4, 2 do
    give_back(argument(number), count_argument(number + 1))
  end
  dismiss(me)
  local rights = rights()
  if rights[me] then
    rights[me] = now + WINDOW
    pack(META, 'rights', rights)
  end
  return redis.call('ZCARD', SEEN) == 0 and 1 or 0
end

return serve()
