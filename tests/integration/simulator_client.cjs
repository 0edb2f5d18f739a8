// Makes every call of the official JavaScript client that is about trainings, models, versions, predictions,
// webhooks and the account, and prints one line of JSON for each: {"call", "result"} or {"call", "error"}.
// Usage: NODE_PATH=…/node_modules node simulator_client.cjs http://127.0.0.1:8090/v1
const http = require("node:http");
const Replicate = require("replicate");

const baseUrl = process.argv[2];
const replicate = new Replicate({ auth: "r8_simulator", baseUrl });
const stranger = new Replicate({ auth: "r8_other", baseUrl });
const trainer = ["ostris", "flux-dev-lora-trainer", "e".repeat(64)];
const official = "black-forest-labs/flux-schnell";
const input = { prompt: "a lake" };
const soon = { interval: 10 };

async function call(name, make) {
  try {
    const result = await make();
    console.log(JSON.stringify({ call: name, result }));
    return result;
  } catch (error) {
    const status = error.response && error.response.status;
    console.log(JSON.stringify({ call: name, error: { status, message: error.message } }));
  }
}

async function collect(events) {
  const all = [];
  for await (const event of events) all.push(event);
  return all;
}

// The next webhook, whole, as it came.
function receive() {
  return new Promise((listening) => {
    const server = http.createServer((request, response) => {
      const chunks = [];
      request.on("data", (chunk) => chunks.push(chunk));
      request.on("end", () => {
        response.writeHead(202).end();
        server.close();
        came({ headers: request.headers, body: Buffer.concat(chunks).toString() });
      });
    });
    let came;
    const hook = new Promise((resolve) => (came = resolve));
    server.listen(0, "127.0.0.1", () => listening({ url: `http://127.0.0.1:${server.address().port}/`, hook }));
  });
}

async function train(name) {
  await replicate.models.create("acme", name, { visibility: "private", hardware: "gpu-t4" });
  return replicate.trainings.create(...trainer, { destination: `acme/${name}`, input: {} });
}

async function ended(training) {
  while (training.status === "starting" || training.status === "processing") {
    training = await replicate.trainings.get(training.id);
  }
  return training;
}

async function main() {
  await call("accounts.current", () => replicate.accounts.current());
  await call("hardware.list", () => replicate.hardware.list());
  const secret = await call("webhooks.default.secret.get", () => replicate.webhooks.default.secret.get());

  const about = { visibility: "private", hardware: "gpu-t4", description: "faces" };
  await call("models.create", () => replicate.models.create("acme", "u-42", about));
  await call("models.create again", () => replicate.models.create("acme", "u-42", about));
  await call("models.get", () => replicate.models.get("acme", "u-42"));
  await call("models.list", () => replicate.models.list());
  await call("models.search", () => replicate.models.search("flux"));

  const { url, hook } = await receive();
  const training = await call("trainings.create", () =>
    replicate.trainings.create(...trainer, {
      destination: "acme/u-42",
      input: {},
      webhook: url,
      webhook_events_filter: ["completed"],
    })
  );
  const { headers, body } = await hook;
  await call("webhook", () => JSON.parse(body));
  await call("validateWebhook", () => Replicate.validateWebhook({ headers, body }, secret.key));
  await call("validateWebhook changed", () => Replicate.validateWebhook({ headers, body: `${body} ` }, secret.key));
  const trained = await call("trainings.get", () => replicate.trainings.get(training.id));
  await call("trainings.list", () => replicate.trainings.list());
  const other = await train("slow");
  await call("trainings.cancel", () => replicate.trainings.cancel(other.id));
  await call("trainings.paginate", () => collect(replicate.paginate(replicate.trainings.list)));

  const reference = trained.output.version;
  const version = reference.split(":")[1];
  await call("models.versions.list", () => replicate.models.versions.list("acme", "u-42"));
  await call("models.versions.get", () => replicate.models.versions.get("acme", "u-42", version));

  const prediction = await call("predictions.create", () => replicate.predictions.create({ version, input }));
  await call("wait", () => replicate.wait(prediction, soon));
  await call("predictions.get", () => replicate.predictions.get(prediction.id));
  await call("predictions.create blocking", () => replicate.predictions.create({ version, input, wait: true }));
  await call("predictions.create for a second", () => replicate.predictions.create({ version, input, wait: 1 }));
  await call("predictions.create official", () => replicate.predictions.create({ model: official, input, wait: true }));
  await call("predictions.create unofficial", () => replicate.predictions.create({ model: "acme/u-42", input }));
  await call("predictions.create invalid", () => replicate.predictions.create({ version, input: {} }));
  const stuck = await ended(await train("stuck"));
  const unwanted = await replicate.predictions.create({ version: stuck.output.version, input });
  await call("predictions.cancel", () => replicate.predictions.cancel(unwanted.id));
  await call("predictions.list", () => replicate.predictions.list());
  await call("run", () => replicate.run(reference, { input }));
  await call("run polling", () => replicate.run(reference, { input, wait: { mode: "poll", ...soon } }));
  await call("run official", () => replicate.run(official, { input }));
  await call("stream", () => collect(replicate.stream(reference, { input })));

  await call("trainings.get unknown", () => replicate.trainings.get("nothing"));
  await call("predictions.get unknown", () => replicate.predictions.get("nothing"));
  await call("models.get unknown", () => replicate.models.get("acme", "nothing"));
  await call("trainings.create into nothing", () =>
    replicate.trainings.create(...trainer, { destination: "acme/nothing", input: {} })
  );
  await call("without its token", () => stranger.accounts.current());
}

main();
