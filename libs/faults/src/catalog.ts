/**
 * Every error code there is: what HTTP says, whether trying the same thing again can help, and what it means.
 * docs/reference/errors.md is written from this table and held against it by a test.
 */
export interface FaultKind {
  /** HTTP status of a problem reply that carries the code; codes that stay inside a process have one too. */
  readonly status: number;
  /** True when the same request, unchanged, may succeed later. */
  readonly retryable: boolean;
  /** `title` of the problem reply: the same for every occurrence. */
  readonly title: string;
  /** What happened and what to do, for the reference page. */
  readonly meaning: string;
}

function kind(status: number, retryable: boolean, title: string, meaning: string): FaultKind {
  return { status, retryable, title, meaning };
}

const codes = {
  // What the caller sent.
  MALFORMED_REQUEST: kind(
    400,
    false,
    'Malformed request',
    'The request is not readable: bad JSON, a duplicate key, bytes that are not UTF-8, a bad Last-Event-ID or parameter.',
  ),
  UNAUTHENTICATED: kind(
    401,
    false,
    'Not authenticated',
    'No credential, an unknown, revoked or expired one, or two that differ.',
  ),
  ORIGIN_REFUSED: kind(
    403,
    false,
    'Origin refused',
    'The Origin header names a site that CORS_ORIGINS does not list.',
  ),
  FORBIDDEN: kind(
    403,
    false,
    'Forbidden',
    'The credential is good, but its scopes or the policy do not allow this.',
  ),
  NOT_FOUND: kind(
    404,
    false,
    'Not found',
    'No such route or thing, or it belongs to another tenant: the reply is the same on purpose.',
  ),
  METHOD_NOT_ALLOWED: kind(405, false, 'Method not allowed', 'The route exists, not with this method.'),
  CONFLICT: kind(
    409,
    false,
    'Conflict',
    'The thing is in a state that does not allow this, or another request with the same key is still running.',
  ),
  STREAM_POSITION_GONE: kind(
    410,
    false,
    'Stream position gone',
    'Events after the given Last-Event-ID are no longer kept. Read the history, then follow the stream without an id.',
  ),
  BODY_TOO_LARGE: kind(413, false, 'Body too large', 'The body is over the limit of the route.'),
  UNSUPPORTED_MEDIA_TYPE: kind(
    415,
    false,
    'Unsupported media type',
    'The Content-Type is not one that the route takes.',
  ),
  VALIDATION_ERROR: kind(
    422,
    false,
    'Validation failed',
    'The request is readable and breaks its schema or names something unknown; `errors` lists each path.',
  ),
  IDEMPOTENCY_KEY_REUSED: kind(
    422,
    false,
    'Idempotency key reused',
    'The Idempotency-Key was used before with another body. Use a new key for a new request.',
  ),

  // Limits.
  RATE_LIMITED: kind(
    429,
    true,
    'Rate limited',
    'Too many requests in the window; Retry-After and the RateLimit headers say when to come back.',
  ),
  TENANT_BUSY: kind(
    429,
    true,
    'Too much work waiting',
    'The tenant has as many turns waiting as it may have. Retry after some of them have ended.',
  ),
  OUTBOX_FULL: kind(
    503,
    true,
    'Outbox full',
    'More messages wait for the broker than OUTBOX_MAX_ROWS allows; nothing was stored.',
  ),
  DRAINING: kind(
    503,
    true,
    'Draining',
    'This replica is stopping and takes no new requests; another one answers.',
  ),

  // Parts that are away.
  DATABASE_UNAVAILABLE: kind(
    503,
    true,
    'Database unavailable',
    'Postgres cannot be reached, is starting or stopping, or no pooled connection was free in time.',
  ),
  KAFKA_UNAVAILABLE: kind(503, true, 'Kafka unavailable', 'No broker answered in time.'),
  REDIS_UNAVAILABLE: kind(
    503,
    true,
    'Redis unavailable',
    'Redis cannot be reached or did not answer in time.',
  ),
  BREAKER_OPEN: kind(
    503,
    true,
    'Circuit breaker open',
    'An outside system failed too often; calls are refused until a probe succeeds.',
  ),
  TIMEOUT: kind(504, true, 'Timed out', 'An outside system or a step did not end within its limit.'),
  OWNER_TIMEOUT: kind(
    504,
    true,
    'Owner did not answer',
    'The service that owns the answer did not reply within the deadline.',
  ),
  ABORTED: kind(
    503,
    true,
    'Aborted',
    'The work was given up because the process stops or the caller went away.',
  ),

  // The model.
  MEMORY_BACKEND_UNAVAILABLE: kind(
    503,
    true,
    'Memory backend unavailable',
    'The memory backend failed, was too busy or cut the connection; it may have had its effect all the same.',
  ),
  MEMORY_BACKEND_REFUSED: kind(
    502,
    false,
    'Memory backend refused',
    'The memory backend does not take this memory (a 4xx other than 401, 403, 408, 425 and 429); trying again will not help.',
  ),
  MODEL_UNAVAILABLE: kind(
    503,
    true,
    'Model unavailable',
    'The model endpoint failed, cut its stream or refused the connection, on every profile tried.',
  ),
  MODEL_RATE_LIMITED: kind(429, true, 'Model rate limited', 'The model endpoint answered 429.'),
  MODEL_BAD_RESPONSE: kind(
    502,
    true,
    'Model answered nonsense',
    'The endpoint answered something that is not its own protocol.',
  ),
  MODEL_REFUSED: kind(
    502,
    false,
    'Model refused the request',
    'The endpoint refused the request itself (bad key, unknown model, prompt too long); trying again cannot help.',
  ),

  // Tools.
  TOOL_UNKNOWN: kind(404, false, 'Unknown tool', 'No tool of this name for the tenant, or it is disabled.'),
  TOOL_INVALID_ARGUMENTS: kind(
    422,
    false,
    'Invalid tool arguments',
    "The arguments do not fit the tool's schema.",
  ),
  TOOL_FAILED: kind(502, false, 'Tool failed', 'The tool ran and reported an error.'),
  TOOL_WALL_LIMIT: kind(504, false, 'Tool ran too long', 'The tool passed its time limit and was killed.'),
  TOOL_CPU_LIMIT: kind(504, false, 'Tool used too much CPU', 'The tool passed its CPU limit and was killed.'),
  TOOL_MEMORY_LIMIT: kind(
    507,
    false,
    'Tool used too much memory',
    'The tool passed its memory limit and was killed.',
  ),
  TOOL_OUTPUT_LIMIT: kind(
    507,
    false,
    'Tool wrote too much',
    'The tool wrote more than its output limit and was killed.',
  ),
  TOOL_CANCELLED: kind(409, false, 'Tool call cancelled', 'Its turn was cancelled before the call ended.'),
  CANCELLED: kind(409, false, 'Cancelled', 'Somebody asked for the work to be ended before it was done.'),
  TOOL_OUTCOME_UNKNOWN: kind(
    502,
    false,
    'Tool outcome unknown',
    'The process that ran a tool without idempotency died; whether it took effect is not known, so it is not repeated.',
  ),

  // Tasks.
  DEPTH_LIMIT: kind(
    422,
    false,
    'Delegated too deep',
    'A task was delegated by a task, and so on, more often than DELEGATION_MAX_DEPTH allows.',
  ),
  HANDLER_UNKNOWN: kind(404, false, 'Unknown handler', 'No handler of this name in the release.'),
  CHILD_FAILED: kind(502, false, 'Child task failed', 'A task that this one had delegated did not complete.'),
  TASK_EXPIRED: kind(504, false, 'Task expired', 'The deadline of the task passed before it ended.'),

  // Calls to addresses that tenants name.
  ADDRESS_REFUSED: kind(
    422,
    false,
    'Address refused',
    'The address is private, of this machine or network, or cannot be read; it is never called.',
  ),
  CALL_FAILED: kind(
    502,
    true,
    'Call failed',
    'An address outside refused the connection, broke it off or answered what cannot be read.',
  ),

  WEBHOOK_GONE: kind(
    410,
    false,
    'Webhook gone',
    'The callback URL answered 410: it wants no more calls, and the webhook is not tried again.',
  ),

  // Work and messages.
  LEASE_LOST: kind(
    409,
    false,
    'Lease lost',
    'Another process holds the lane now; the holder stops at once and writes nothing.',
  ),
  RETRY_BUDGET_SPENT: kind(
    500,
    false,
    'Retry budget spent',
    'The work failed as often as it may; its row is kept as failed with the last error.',
  ),
  POISON_RECORD: kind(
    422,
    false,
    'Poison record',
    'A record cannot be handled (no schema, not JSON, refused by the store); it is kept as a dead letter.',
  ),
  RECORD_TOO_LARGE: kind(
    413,
    false,
    'Record too large',
    'A message is over the limit of its topic or of the outbox.',
  ),
  RECORD_REFUSED: kind(
    500,
    false,
    'Record refused by the broker',
    'Kafka refused one record alone; it is kept as a dead letter and its key goes on.',
  ),

  // Starting.
  CONFIG_INVALID: kind(
    500,
    false,
    'Configuration invalid',
    'The settings are wrong; every mistake is listed. The process exits 64.',
  ),
  SECRET_UNRESOLVED: kind(
    500,
    true,
    'Secret not resolved',
    'A secret that a setting refers to could not be read from any provider.',
  ),
  SCHEMA_OUTDATED: kind(
    503,
    true,
    'Database schema outdated',
    'The database lacks migrations that this release needs; run `signalbox migrate`.',
  ),
  WRONG_CLUSTER: kind(
    503,
    false,
    'Wrong Kafka cluster',
    'The broker reports another cluster id than the configured one.',
  ),
  INTERNAL_ERROR: kind(
    500,
    false,
    'Internal error',
    'A defect. The reply carries an error_id that finds the log record with its stack.',
  ),
} as const satisfies Record<string, FaultKind>;

export type FaultCode = keyof typeof codes;

export const catalog: Readonly<Record<FaultCode, FaultKind>> = codes;

/** Narrows text from outside (a stored row, another process) to a code of the catalog. */
export function isFaultCode(text: string): text is FaultCode {
  return Object.hasOwn(codes, text);
}
