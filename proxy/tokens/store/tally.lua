-- Adds to the tallies of a day, and returns them. tallies.py is its model.
--
-- KEYS: a hash, by client. ARGV: for how many milliseconds it is kept once one of them grew, then
-- three lists of the same length, packed: the clients, what each spent, and the tally of it that
-- the teller knows of. The answer is packed, too: the teller would take longer to read a list.
-- All are written at once, so a server that is out of memory changes either all of them or none.

local DAY = KEYS[1]
local clients = cmsgpack.unpack(ARGV[2])
local spent, known = cmsgpack.unpack(ARGV[3]), cmsgpack.unpack(ARGV[4])
local tallies, grown = {}, {}

for number, stored in ipairs(redis.call('HMGET', DAY, unpack(clients))) do
  local before = tonumber(stored or 0)
  local tally = math.max(before, known[number]) + spent[number]
  tallies[number] = tally
  if tally > before then
    table.insert(grown, clients[number])
    table.insert(grown, tally)
  end
end

if #grown > 0 then
  redis.call('HSET', DAY, unpack(grown))
  redis.call('PEXPIRE', DAY, ARGV[1])
end
return cmsgpack.pack(tallies)
