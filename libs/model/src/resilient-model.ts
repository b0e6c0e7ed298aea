import { setTimeout as delay } from 'node:timers/promises';
import type { Breaker } from '@signalbox/breaker/breaker';
import { asFault, type Fault, fault } from '@signalbox/faults/fault';
import type { Model, ModelEvent, ModelRequest } from './model-port.ts';

/** One profile, ready to be asked. */
export interface GuardedModel {
  readonly profile: string;
  /** The provider's name of the model, told in `served`. */
  readonly model: string;
  readonly maxOutputTokens: number;
  readonly port: Model;
  /** Of this endpoint alone: one that is down must not close the way to its fallback. */
  readonly breaker: Breaker;
}

export interface ResilienceOptions {
  /** Tries of one profile before the next is asked. */
  readonly tries: number;
  readonly firstDelayMs: number;
  readonly maxDelayMs: number;
  /** Told of each failed try. */
  onFailure?(failure: { profile: string; fault: Fault; tryNumber: number }): void;
}

/**
 * One model out of a chain of them: a profile and its fallbacks, in that order.
 *
 * A try is what happens until the first token (text, thinking or a call). Until then nothing was shown, so a failed try
 * may be repeated: on the same profile while the fault is retryable and tries are left, after the endpoint's Retry-After
 * or a delay with full jitter; then on the next profile. An open breaker, a refused request and a Retry-After longer than
 * `maxDelayMs` go to the next profile at once. After the first token a fault goes to the caller, who knows what was shown,
 * and is only counted.
 */
export function createResilientModel(chain: readonly GuardedModel[], options: ResilienceOptions): Model {
  return {
    async *stream(request, signal) {
      let last: Fault = fault('MODEL_UNAVAILABLE', 'no model profile to ask');
      for (const guarded of chain) {
        for (let tryNumber = 1; tryNumber <= options.tries; tryNumber++) {
          signal.throwIfAborted();
          const opened = await open(guarded, request, signal);
          if (opened.ok) {
            yield { type: 'served', profile: guarded.profile, model: guarded.model };
            yield* rest(opened, guarded, signal);
            return;
          }
          signal.throwIfAborted();
          last = opened.fault;
          options.onFailure?.({ profile: guarded.profile, fault: last, tryNumber });
          const waitMs = waitBefore(tryNumber + 1, last, options);
          if (waitMs === undefined) break;
          await delay(waitMs, undefined, { signal }).catch(() => signal.throwIfAborted());
        }
      }
      throw last;
    },
  };
}

interface OpenStream {
  readonly ok: true;
  /** The events up to and with the first token. */
  readonly first: readonly ModelEvent[];
  readonly events: AsyncIterator<ModelEvent>;
}

async function open(
  { port, breaker, maxOutputTokens }: GuardedModel,
  request: ModelRequest,
  signal: AbortSignal,
): Promise<OpenStream | { readonly ok: false; readonly fault: Fault }> {
  const limited = { ...request, maxOutputTokens: Math.min(request.maxOutputTokens, maxOutputTokens) };
  try {
    return await breaker.run(async (abandoned) => {
      // The breaker gives up on a try that is too slow: its connection must not stay behind.
      const giveUp = new AbortController();
      const onAbandoned = () => giveUp.abort(abandoned.reason);
      abandoned.addEventListener('abort', onAbandoned, { once: true });
      try {
        return await firstToken(port, limited, AbortSignal.any([signal, giveUp.signal]));
      } catch (error) {
        // Whatever its reason, the caller's own abort says nothing about the endpoint.
        throw signal.aborted ? fault('ABORTED', 'the caller left', { cause: error }) : error;
      } finally {
        // From the first token on the stream is the caller's.
        abandoned.removeEventListener('abort', onAbandoned);
      }
    });
  } catch (error) {
    return { ok: false, fault: asFault(error) };
  }
}

async function firstToken(port: Model, request: ModelRequest, signal: AbortSignal): Promise<OpenStream> {
  const events = port.stream(request, signal)[Symbol.asyncIterator]();
  const first: ModelEvent[] = [];
  for (;;) {
    const next = await events.next();
    if (next.done) return { ok: true, first, events };
    first.push(next.value);
    if (next.value.type !== 'usage') return { ok: true, first, events };
  }
}

async function* rest(
  { first, events }: OpenStream,
  { breaker }: GuardedModel,
  signal: AbortSignal,
): AsyncGenerator<ModelEvent> {
  let whole = false;
  try {
    yield* first;
    for (;;) {
      const next = await events.next();
      if (next.done) break;
      yield next.value;
    }
    whole = true;
  } catch (error) {
    whole = true;
    // An endpoint that breaks off its answers is as ill as one that gives none.
    if (!signal.aborted) await breaker.run(() => Promise.reject(error)).catch(() => undefined);
    throw error;
  } finally {
    // The reader left the loop: close the connection.
    if (!whole) await events.return?.();
  }
}

/** How long to wait before a try of the same profile; undefined: do not try it again. */
function waitBefore(tryNumber: number, last: Fault, options: ResilienceOptions): number | undefined {
  if (!last.retryable || last.code === 'BREAKER_OPEN' || tryNumber > options.tries) return undefined;
  if (last.retryAfterMs !== undefined) {
    return last.retryAfterMs <= options.maxDelayMs ? last.retryAfterMs : undefined;
  }
  return Math.random() * Math.min(options.maxDelayMs, options.firstDelayMs * 2 ** (tryNumber - 2));
}
