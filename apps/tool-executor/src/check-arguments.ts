import { Ajv2020, type ErrorObject, type ValidateFunction } from 'ajv/dist/2020.js';
import formats from 'ajv-formats';
import type { TenantTool } from './tool-lookup.ts';

export type ArgumentsCheck =
  | { readonly kind: 'ok' }
  | { readonly kind: 'wrong'; readonly message: string }
  | { readonly kind: 'bad_schema'; readonly message: string };

/** The check of one state of a tool: `tenant name` and its version. */
export type CheckArguments = (key: string, tool: TenantTool, args: unknown) => ArgumentsCheck;

const maxCompiled = 500;
const maxToldErrors = 5;

/**
 * Checks arguments against a tool's JSON Schema (2020-12). What is wrong is told in a form that a model can correct
 * itself by. Compiled checks are kept, 500 at most.
 */
export function argumentsChecker(): CheckArguments {
  const compiled = new Map<string, { version: string; validate: ValidateFunction | Error }>();
  return (key, tool, args) => {
    let known = compiled.get(key);
    if (known?.version !== tool.version) {
      known = { version: tool.version, validate: compile(tool) };
      compiled.delete(key);
      compiled.set(key, known);
      const oldest = compiled.keys().next().value;
      if (compiled.size > maxCompiled && oldest !== undefined) {
        compiled.delete(oldest);
      }
    }
    const { validate } = known;
    if (validate instanceof Error) {
      return { kind: 'bad_schema', message: `the tool's schema is not valid: ${validate.message}` };
    }
    return validate(args) === true ? { kind: 'ok' } : { kind: 'wrong', message: told(validate.errors ?? []) };
  };
}

// An instance for each schema: schemas come from tables, and two may bear the same $id.
function compile({ parameters }: TenantTool): ValidateFunction | Error {
  try {
    const ajv = new Ajv2020({ strict: false, allErrors: true, ownProperties: true, logger: false });
    formats.default(ajv);
    return ajv.compile({ ...parameters, $async: false });
  } catch (error) {
    return error instanceof Error ? error : new Error(String(error));
  }
}

function told(errors: readonly ErrorObject[]): string {
  const texts = errors.slice(0, maxToldErrors).map(({ instancePath, message, params }) => {
    const extra = typeof params.additionalProperty === 'string' ? ` (${params.additionalProperty})` : '';
    return `${instancePath === '' ? 'arguments' : instancePath} ${message ?? 'wrong'}${extra}`;
  });
  return texts.join('; ');
}
