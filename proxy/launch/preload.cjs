'use strict';

// Leads connections that an app makes to the configured names to the proxy's Unix sockets. Every
// Node that the app starts loads it first (NODE_OPTIONS): before 22.21 Node honours no proxy
// variable at all, and since then only its own agents do, which many clients replace.
//
// MOBULA_PROXY_SOCKETS maps "host:port" to the path of a socket. All else stays as it is: server
// name, Host, and the certificate, which must be one that the app trusts (NODE_EXTRA_CA_CERTS).

const net = require('net');
const tls = require('tls');
const { syncBuiltinESMExports } = require('module');

const sockets = JSON.parse(process.env.MOBULA_PROXY_SOCKETS || '{}');

// Both take (options), (port, host) or (path), then more options and a callback in any number.
function optionsOf(args) {
  const [port, host] = args;
  const named = typeof port === 'object' ? {} : { port };
  if (typeof host === 'string') named.host = host;
  return Object.assign(named, ...args.filter((each) => typeof each === 'object'));
}

function callbackOf(args) {
  return args.find((each) => typeof each === 'function');
}

function socketFor({ host = 'localhost', port, path, socket }) {
  return path || socket ? undefined : sockets[`${host}:${port}`.toLowerCase()];
}

// Here and not below, because the handle of a TLS socket is made before it connects.
const connectTls = tls.connect;
tls.connect = function connect(...args) {
  const options = optionsOf(args);
  const path = socketFor(options);
  if (path === undefined) return connectTls.apply(this, args);
  const servername = options.servername || options.host;
  return connectTls.call(this, { ...options, servername, path }, callbackOf(args));
};

const connectPlain = net.Socket.prototype.connect;
net.Socket.prototype.connect = function connect(...args) {
  const given = Array.isArray(args[0]) ? args[0] : args; // as net.connect hands them on
  const options = optionsOf(given);
  const path = socketFor(options);
  if (path === undefined || this._handle) return connectPlain.apply(this, args);
  return connectPlain.call(this, { ...options, path }, callbackOf(given));
};

syncBuiltinESMExports();
