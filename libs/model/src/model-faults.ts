import { type Fault, fault } from '@signalbox/faults/fault';

/** What a provider's client told about a failed call, in one form for all of them. */
export type ModelFailure =
  /** The endpoint answered with an error status. */
  | {
      readonly kind: 'status';
      readonly status: number;
      readonly headers: Headers | undefined;
      readonly cause: unknown;
    }
  /** An error event inside a stream that had begun with 200; `type` is the provider's own word for it. */
  | { readonly kind: 'event'; readonly type: string; readonly cause: unknown }
  /** Refused, reset, no such host. */
  | { readonly kind: 'connection'; readonly cause: unknown }
  /** The stream ended without its end. */
  | { readonly kind: 'cut'; readonly cause?: unknown }
  /** No answer, or silence, for longer than the limit. */
  | { readonly kind: 'timeout'; readonly cause: unknown }
  /** Not JSON, or JSON that is not the protocol. */
  | { readonly kind: 'malformed'; readonly cause: unknown };

/** Waiting times that an endpoint asks for are believed up to here. */
const longestRetryAfterMs = 600_000;

/**
 * Total and pure: every failure of an endpoint as a fault of the catalog. Messages may reach a client, so they hold
 * nothing that the endpoint said; that is in `cause`.
 */
export function modelFault(failure: ModelFailure): Fault {
  const cause = failure.cause === undefined ? {} : { cause: failure.cause };
  switch (failure.kind) {
    case 'status':
      return statusFault(failure.status, failure.headers, cause);
    case 'event':
      return eventFault(failure.type, cause);
    case 'connection':
      return fault('MODEL_UNAVAILABLE', 'the model endpoint could not be reached', cause);
    case 'cut':
      return fault('MODEL_UNAVAILABLE', 'the model endpoint cut its answer', cause);
    case 'timeout':
      return fault('TIMEOUT', 'the model endpoint did not answer in time', cause);
    case 'malformed':
      return fault('MODEL_BAD_RESPONSE', 'the model endpoint answered something unreadable', cause);
  }
}

function statusFault(status: number, headers: Headers | undefined, cause: { cause?: unknown }): Fault {
  const retryAfterMs = retryAfter(headers);
  const options = { ...cause, details: { status }, ...(retryAfterMs === undefined ? {} : { retryAfterMs }) };
  // Too many requests is the one status that names its own waiting time.
  if (status === 429) return fault('MODEL_RATE_LIMITED', 'the model endpoint is rate limited', options);
  // 408 and 409 are about this moment (a slow upload, a lock), as is everything from 500 up (529: overloaded).
  if (status === 408 || status === 409 || status >= 500) {
    return fault('MODEL_UNAVAILABLE', `the model endpoint answered ${status}`, options);
  }
  // A redirect or another success than 200 is no answer of this protocol.
  if (status < 400) return fault('MODEL_BAD_RESPONSE', `the model endpoint answered ${status}`, options);
  // What is left says that this request will never do: key, model name, length, form.
  return fault('MODEL_REFUSED', `the model endpoint refused the request (${status})`, options);
}

function eventFault(type: string, cause: { cause?: unknown }): Fault {
  const options = { ...cause, details: { type } };
  if (type.includes('rate_limit')) {
    return fault('MODEL_RATE_LIMITED', 'the model endpoint is rate limited', options);
  }
  if (type.includes('invalid_request')) {
    return fault('MODEL_REFUSED', 'the model endpoint refused the request', options);
  }
  return fault('MODEL_UNAVAILABLE', 'the model endpoint broke off its answer', options);
}

/** Milliseconds that the endpoint asks to wait: `retry-after-ms`, or Retry-After in seconds or as a date (RFC 9110). */
export function retryAfter(headers: Headers | undefined, nowMs: number = Date.now()): number | undefined {
  const milliseconds = Number(headers?.get('retry-after-ms') ?? Number.NaN);
  if (milliseconds >= 0) return Math.min(milliseconds, longestRetryAfterMs);
  const text = headers?.get('retry-after');
  if (text === null || text === undefined || text === '') return undefined;
  const seconds = Number(text);
  const wait = Number.isNaN(seconds) ? Date.parse(text) - nowMs : seconds * 1000;
  return Number.isNaN(wait) ? undefined : Math.min(Math.max(wait, 0), longestRetryAfterMs);
}

/** A failure that the client passes on as it came: while the body was read, or made in this file. */
export function streamFailure(error: unknown): unknown {
  if (!(error instanceof Error) || error.name === 'Fault') return error;
  if (error.name === 'TimeoutError') return modelFault({ kind: 'timeout', cause: error });
  // The clients parse each event with JSON.parse; a TypeError is ours, from a form the protocol does not have.
  if (error instanceof SyntaxError || error instanceof TypeError) {
    return modelFault({ kind: 'malformed', cause: error });
  }
  return modelFault({ kind: 'cut', cause: error });
}
