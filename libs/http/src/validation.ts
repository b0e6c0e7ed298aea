import { Ajv, type Options } from 'ajv';
import formats from 'ajv-formats';
import type { FastifySchemaCompiler } from 'fastify';

const options: Options = {
  // A refused body names every place, and the reply carries the first twenty.
  allErrors: true,
  removeAdditional: false,
  useDefaults: false,
  strict: false,
  // Schemas are ours and written once; what is validated is not.
  validateSchema: false,
};

/** Bodies: what the JSON says counts, "5" is no number. */
const exact = new Ajv({ ...options, coerceTypes: false });
/** Path, query and headers are text on the wire: "5" is a number where the schema says so. */
const fromText = new Ajv({ ...options, coerceTypes: true });
formats.default(exact);
formats.default(fromText);

/** Validates: no coercion of bodies, nothing dropped, unknown fields refused where a schema is closed. */
export const compileValidator: FastifySchemaCompiler<object> = ({ schema, httpPart }) =>
  (httpPart === 'body' ? exact : fromText).compile(schema);
