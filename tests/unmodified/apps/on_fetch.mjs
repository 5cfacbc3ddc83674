// An app on Node's own fetch.
const headers = { Authorization: process.env.MOBULA_API_KEY };
for (const path of process.argv.slice(2)) {
  const answer = await fetch(`https://api.mobula.io${path}`, { headers });
  console.log(await answer.text(), answer.status);
}
