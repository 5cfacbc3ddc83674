// An app on Node's own https.
import https from 'node:https';
import { text } from 'node:stream/consumers';

const headers = { Authorization: process.env.MOBULA_API_KEY };
for (const path of process.argv.slice(2)) {
  const answer = await new Promise((resolve, reject) => {
    https.get(`https://api.mobula.io${path}`, { headers }, resolve).on('error', reject);
  });
  console.log(await text(answer), answer.statusCode);
}
