// Generates TypeScript types of JSON Schemas: a file for each, named like its schema.
// Usage: NODE_PATH=…/node_modules node generate.cjs schemas types
const fs = require("node:fs");
const path = require("node:path");
const { compileFromFile } = require("json-schema-to-typescript");

async function main([schemas, types]) {
  fs.mkdirSync(types, { recursive: true });
  for (const file of fs.readdirSync(schemas)) {
    const name = path.basename(file, ".json");
    fs.writeFileSync(path.join(types, `${name}.ts`), await compileFromFile(path.join(schemas, file)));
  }
}

main(process.argv.slice(2));
