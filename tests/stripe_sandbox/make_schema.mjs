// Derives schema.json, the form of Stripe's responses and events, from the types of Stripe's own package for Node.js.
//
// The package for the API version that the sandbox names distinguishes members that may be absent from those that may
// be null, which Stripe's SDK for Python does not. In an empty folder:
//
//     npm install stripe@23.1.0 typescript@5.9.3
//     node /path/to/make_schema.mjs > /path/to/schema.json
//
// The schema has what the sandbox returns and no more. A member that may be absent is left out unless it is in WANTED;
// one that may be null is null, if it would be an object, unless it is in WANTED; and one that may be an object or its id
// is the id, unless the object is of one of KINDS. Anything else violates the schema: when the sandbox is to return it,
// add it here and derive the schema again.

import { createRequire } from "node:module";
import { join } from "node:path";

const ts = createRequire(join(process.cwd(), "package.json"))("typescript");

const KINDS = {
  account: "Account",
  charge: "Charge",
  confirmation_token: "ConfirmationToken",
  payment_intent: "PaymentIntent",
  payment_method: "PaymentMethod",
  refund: "Refund",
};
const EVENTS = new Set([
  ...["charge.refunded", "payment_intent.amount_capturable_updated", "payment_intent.canceled"],
  ...["payment_intent.payment_failed", "payment_intent.requires_action", "payment_intent.succeeded", "refund.created"],
]);
const WANTED = new Set([
  // of an account
  ...["charges_enabled", "country", "created", "default_currency", "details_submitted", "metadata", "payouts_enabled"],
  // of a PaymentIntent
  ...["allow_redirects", "automatic_payment_methods", "last_payment_error", "next_action", "redirect_to_url"],
  "use_stripe_sdk",
  // of a card
  ...["address", "card", "checks", "networks", "payment_method_preview", "three_d_secure_usage"],
  // of an error
  ...["charge", "code", "decline_code", "doc_url", "message", "param", "payment_intent", "payment_method"],
  "request_log_url",
  // of an event
  "request",
]);

const folder = join(process.cwd(), "node_modules/stripe/esm");
const program = ts.createProgram([join(folder, "stripe.esm.node.d.ts")], {
  strict: true,
  module: ts.ModuleKind.NodeNext,
  moduleResolution: ts.ModuleResolutionKind.NodeNext,
});
const checker = program.getTypeChecker();
const definitions = {};

function exportedSymbol(file, name) {
  const module = checker.getSymbolAtLocation(program.getSourceFile(join(folder, `${file}.d.ts`)));
  return checker.getExportsOfModule(module).find((each) => each.name === name);
}

const exported = (file, name) => checker.getDeclaredTypeOfSymbol(exportedSymbol(file, name));

const nameOf = (type) => checker.getFullyQualifiedName(type.symbol).replace(/^".*"\./, "");

/** Return what a type has as its member `object` or `type`, if that can be one text only. */
function literal(type, member) {
  const symbol = type.getProperty(member);
  const value = symbol ? checker.getTypeOfSymbol(symbol) : null;
  return value?.isStringLiteral() ? value.value : null;
}

/** Return the schema of a type, or null if none of its values is wanted. Without objects it has those of KINDS only. */
function schemaOf(type, hasObjects = true) {
  const parts = type.isUnion() ? type.types : [type];
  const isNullable = parts.some((part) => part.flags & ts.TypeFlags.Null);
  const schemas = parts
    .filter((part) => !part.isStringLiteral())
    .flatMap((part) => schemaOfPart(part, hasObjects || !isNullable));
  const literals = parts.filter((part) => part.isStringLiteral()).map((part) => part.value);
  if (literals.length) schemas.unshift({ enum: literals.sort() });
  const different = [...new Map(schemas.map((each) => [JSON.stringify(each), each])).values()];
  if (different.length < 2) return different[0] ?? null;
  const [named, others] = [different.filter((each) => each.$ref), different.filter((each) => !each.$ref)];
  const types = others.map((each) => each.type);
  if (named.length > 1 || types.includes(undefined)) return { anyOf: different };
  // Unlike `anyOf`, this reports what is wrong with an object.
  return named.length ? { type: [...types, "object"], if: { type: "object" }, then: named[0] } : { type: types };
}

function schemaOfPart(type, hasObjects) {
  const is = (flag) => Boolean(type.flags & flag);
  if (is(ts.TypeFlags.Undefined)) return [];
  if (type.isIntersection()) return []; // enumerations are open to any text: `"a" | "b" | (string & …)`; here they are not
  if (is(ts.TypeFlags.Unknown | ts.TypeFlags.TypeParameter)) return [{}];
  if (is(ts.TypeFlags.Null)) return [{ type: "null" }];
  if (is(ts.TypeFlags.BooleanLike)) return [{ type: "boolean" }];
  if (is(ts.TypeFlags.NumberLike)) return [{ type: "integer" }];
  if (is(ts.TypeFlags.StringLike)) return [{ type: "string" }];
  if (checker.isArrayType(type)) return [{ type: "array", items: schemaOf(checker.getTypeArguments(type)[0]) ?? {} }];
  const values = checker.getIndexInfoOfType(type, ts.IndexKind.String);
  if (values) return [{ type: "object", additionalProperties: schemaOf(values.type) ?? {} }];
  const kind = literal(type, "object");
  const isWanted = kind === null ? hasObjects : KINDS[kind] === nameOf(type);
  return isWanted ? [reference(type)] : [];
}

/** Define a type, unless that was done, and return the schema that refers to the definition. */
function reference(type) {
  const name = nameOf(type);
  if (!(name in definitions)) {
    const [properties, required] = [{}, []];
    definitions[name] = { type: "object", properties, required, additionalProperties: false };
    for (const member of checker.getPropertiesOfType(type)) {
      const isOptional = Boolean(member.flags & ts.SymbolFlags.Optional);
      const isWanted = WANTED.has(member.name);
      const schema = isOptional && !isWanted ? null : schemaOf(checker.getTypeOfSymbol(member), isWanted);
      if (schema === null) continue;
      properties[member.name] = schema;
      if (!isOptional) required.push(member.name);
    }
  }
  return { $ref: `#/$defs/${name}` };
}

const valueOf = (type, member) => checker.getNonNullableType(checker.getTypeOfSymbol(type.getProperty(member)));
const lines = (members) => Object.entries(members).map((entry) => entry.map((each) => JSON.stringify(each)).join(": "));

// What a body is an instance of, by its member `object`; of an event by its `type`.
const bodies = {
  error: reference(valueOf(exported("resources/PaymentIntents", "PaymentIntent"), "last_payment_error")),
  list: reference(exported("lib", "ApiList")),
  search_result: reference(exported("lib", "ApiSearchResult")),
};
for (const [kind, name] of Object.entries(KINDS)) bodies[kind] = reference(exported(`resources/${name}s`, name));
for (const event of exported("resources/Events", "Event").types) {
  if (EVENTS.has(literal(event, "type"))) bodies[literal(event, "type")] = reference(event);
}
const version = checker.getTypeOfSymbol(exportedSymbol("apiVersion", "ApiVersion")).value;
console.log(`{"version": ${JSON.stringify(version)},\n"bodies": {\n${lines(bodies).join(",\n")}\n},\n"$defs": {\n${lines(definitions).sort().join(",\n")}\n}}`);
