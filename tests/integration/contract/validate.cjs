// Validates an AsyncAPI document with its official parser, and prints what is wrong; exit code 1 if it is refused.
// Usage: NODE_PATH=…/node_modules node validate.cjs asyncapi.json
const fs = require("node:fs");
const { Parser } = require("@asyncapi/parser");

async function main() {
  const { document, diagnostics } = await new Parser().parse(fs.readFileSync(process.argv[2], "utf8"));
  for (const each of diagnostics) console.log(`${each.code} at ${each.path.join(".")}: ${each.message}`);
  process.exitCode = document === undefined ? 1 : 0;
}

main();
