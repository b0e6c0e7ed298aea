import { STATUS_CODES } from 'node:http';
import { newId } from '@signalbox/contracts/ids';
import { catalog } from '@signalbox/faults/catalog';
import { asFault, type Fault, type FieldError, fault } from '@signalbox/faults/fault';
import { maxReportedErrors } from './strict-json.ts';

/** The body of every reply that is no success: RFC 9457, with `error_id` and `error_code` among its members. */
export interface Problem {
  readonly type: string;
  readonly title: string;
  readonly status: number;
  readonly detail: string;
  readonly instance: string;
  /** Names this one occurrence; the log record of the request carries it too. */
  readonly error_id: string;
  readonly error_code: string;
  readonly message: string;
  readonly timestamp: string;
  readonly request_id: string;
  readonly trace_id?: string;
  readonly errors?: readonly FieldError[];
}

export interface ProblemSource {
  /** Path without query. */
  readonly path: string;
  readonly requestId: string;
  readonly traceId: string | undefined;
}

export const problemType = 'application/problem+json; charset=utf-8';

/** Writes a fault for its caller: code, message and places; never cause, details or stack. */
export function problemOf(failure: Fault, source: ProblemSource, status: number = failure.status): Problem {
  const { title } = catalog[failure.code];
  // What went wrong inside is for the log; the caller gets the id that finds it.
  const message = failure.code === 'INTERNAL_ERROR' ? catalog.INTERNAL_ERROR.title : failure.message;
  return {
    type: `urn:signalbox:error:${failure.code}`,
    title: status === failure.status ? title : (STATUS_CODES[status] ?? title),
    status,
    detail: message,
    instance: source.path,
    error_id: newId(),
    error_code: failure.code,
    message,
    timestamp: new Date().toISOString(),
    request_id: source.requestId,
    ...(source.traceId === undefined ? {} : { trace_id: source.traceId }),
    ...(failure.errors === undefined ? {} : { errors: failure.errors.slice(0, maxReportedErrors) }),
  };
}

/** Whole seconds for Retry-After, at least 1; a fault with status 429 or 503 always has one. */
export function retryAfterSeconds(failure: Fault): number | undefined {
  if (failure.retryAfterMs !== undefined) return Math.max(1, Math.ceil(failure.retryAfterMs / 1000));
  return failure.status === 429 || failure.status === 503 ? 1 : undefined;
}

/** What fastify and ajv throw, as faults. Anything unknown is INTERNAL_ERROR: it must not look like the caller's mistake. */
export function faultOf(thrown: unknown): Fault {
  if (!(thrown instanceof Error)) return asFault(thrown);
  const errors = validationErrors(thrown);
  if (errors !== undefined) {
    return fault('VALIDATION_ERROR', 'the request does not fit its schema', { errors, cause: thrown });
  }
  const code = 'code' in thrown ? thrown.code : undefined;
  switch (code) {
    case 'FST_ERR_CTP_BODY_TOO_LARGE':
      return fault('BODY_TOO_LARGE', 'the body is over the limit', { cause: thrown });
    case 'FST_ERR_CTP_INVALID_MEDIA_TYPE':
      return fault('UNSUPPORTED_MEDIA_TYPE', 'send application/json', { cause: thrown });
    case 'FST_ERR_CTP_INVALID_CONTENT_LENGTH':
      return fault('MALFORMED_REQUEST', 'the body is not as long as Content-Length says', { cause: thrown });
    case 'FST_ERR_BAD_URL':
    case 'FST_ERR_MAX_PARAM_LENGTH':
    case 'FST_ERR_ASYNC_CONSTRAINT':
      return fault('MALFORMED_REQUEST', 'the path is not readable', { cause: thrown });
    case 'ECONNRESET':
      return fault('MALFORMED_REQUEST', 'the body did not arrive whole', { cause: thrown });
    default:
      return asFault(thrown);
  }
}

/** ajv's findings as places: a JSON pointer into the body, or `?limit` style names for the other parts. */
function validationErrors(error: Error): FieldError[] | undefined {
  if (!('validation' in error) || !Array.isArray(error.validation)) return undefined;
  const part = 'validationContext' in error ? String(error.validationContext) : 'body';
  const found: FieldError[] = [];
  for (const each of error.validation.slice(0, maxReportedErrors)) found.push(fieldError(each, part));
  return found;
}

function fieldError(finding: unknown, part: string): FieldError {
  const { instancePath, message, keyword, params } = readFinding(finding);
  const extra = keyword === 'additionalProperties' ? params.additionalProperty : params.missingProperty;
  const inside =
    typeof extra === 'string'
      ? `${instancePath}/${extra.replaceAll('~', '~0').replaceAll('/', '~1')}`
      : instancePath;
  return {
    path: part === 'body' ? inside : `${part}${inside}`,
    message: saidOf(keyword, params) ?? message,
  };
}

/** What ajv says less plainly; undefined where its own words do. */
function saidOf(keyword: string, { allowedValues }: Record<string, unknown>): string | undefined {
  if (keyword === 'additionalProperties') return 'is not a known field';
  if (keyword === 'required') return 'is required';
  if (keyword === 'enum' && Array.isArray(allowedValues)) return `must be one of ${allowedValues.join(', ')}`;
  return undefined;
}

function readFinding(finding: unknown): {
  instancePath: string;
  message: string;
  keyword: string;
  params: Record<string, unknown>;
} {
  const read = (name: string): unknown =>
    typeof finding === 'object' && finding !== null && name in finding
      ? Reflect.get(finding, name)
      : undefined;
  const params = read('params');
  return {
    instancePath: String(read('instancePath') ?? ''),
    message: String(read('message') ?? 'is not valid'),
    keyword: String(read('keyword') ?? ''),
    params: typeof params === 'object' && params !== null ? { ...params } : {},
  };
}
