// An app that speaks nothing but HTTP/2; it prints the code with which its session was ended.
import http2 from 'node:http2';

const session = http2.connect('https://api.mobula.io');
session.on('error', () => {});
session.on('goaway', (code) => console.log(code));
session.request({ ':path': '/' }).on('error', () => {});
