// A subscriber as somebody writes it who has only the contract's documents. It prints the model of each user.
// `types` is generated from the schemas, `messages` holds captured messages, which the compiler compares with the types.
import type { ExtractionFailed } from "./types/extraction.failed.v1.js";
import type { EventHeaders } from "./types/headers.js";
import type { ModelActivated } from "./types/model.activated.v1.js";
import type { ModelReady } from "./types/model.ready.v1.js";
import type { ModelSuperseded } from "./types/model.superseded.v1.js";
import type { ModelWithdrawn } from "./types/model.withdrawn.v1.js";
import { messages } from "./messages.js";

export type Message = { headers: EventHeaders } & (
  | { key: "extraction.failed.v1"; body: ExtractionFailed }
  | { key: "model.activated.v1"; body: ModelActivated }
  | { key: "model.ready.v1"; body: ModelReady }
  | { key: "model.superseded.v1"; body: ModelSuperseded }
  | { key: "model.withdrawn.v1"; body: ModelWithdrawn }
);

const generations = new Map<string, number>();
const models = new Map<string, string | null>();
const told: string[] = [];

function change(user: string, generation: number, model: string | null): void {
  if (generation <= (generations.get(user) ?? 0)) return;
  generations.set(user, generation);
  models.set(user, model);
}

function handle(message: Message): void {
  switch (message.key) {
    case "model.activated.v1":
      return change(message.body.user_id, message.body.generation, message.body.model);
    case "model.withdrawn.v1":
      return change(message.body.user_id, message.body.generation, null);
    case "model.ready.v1":
      told.push(`${message.body.user_id ?? "?"}: ${message.body.evidence.checks.join(", ")}`);
      return;
    case "model.superseded.v1":
      told.push(`${message.body.generation} < ${message.body.current_generation}`);
      return;
    case "extraction.failed.v1":
      told.push(`${message.body.error}: ${message.headers["ce-subject"]}`);
      return;
  }
}

// The types refuse what is no such event; the compiler fails if they do not.
export function refused(activated: ModelActivated): ModelActivated[] {
  // @ts-expect-error A field of another type.
  const retyped: ModelActivated = { ...activated, generation: "7" };
  // @ts-expect-error A value that the event does not have.
  const unknown: ModelActivated = { ...activated, cause: "fate" };
  // @ts-expect-error A null: a field without a value is missing.
  const none: ModelActivated = { ...activated, previous: null };
  return [retyped, unknown, none];
}

for (const message of [...messages, ...messages].reverse()) handle(message);
console.log(JSON.stringify({ models: Object.fromEntries(models), told }));
