// Calls a function of a client's module with the server's URL and a body: `run.mjs MODULE FUNCTION URL BODY`.
// Prints what the client read, as JSON.
const [name, call, url, body] = process.argv.slice(2);
const module = await import(`./${name}.mjs`);
console.log(JSON.stringify(await module[call](url, JSON.parse(body))));
