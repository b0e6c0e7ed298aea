import { createHash } from 'node:crypto';
import { type Breaker, type BreakerState, createBreaker } from '@signalbox/breaker/breaker';
import type { MemoryItem } from '@signalbox/contracts/memory-writes';
import { asFault, type Fault, fault, isFault } from '@signalbox/faults/fault';
import type { BoundedFetch } from '@signalbox/http-client/bounded-fetch';
import type { Logger, Metrics } from '@signalbox/telemetry/telemetry';
import { currentTraceparent, withSpan } from '@signalbox/telemetry/trace';

/** A version as the backend gets it. */
export interface Remembering {
  readonly version: number;
  readonly idempotencyKey: string;
  readonly item: MemoryItem;
  /** Of the push of this version; a batch is sent in the trace of one of them. */
  readonly traceparent: string | undefined;
}

export interface MemoryBackend {
  /**
   * Hands memories of one tenant over, in one request; answers by place with undefined for those that it has now, or why
   * it has not. MEMORY_BACKEND_REFUSED: for good; MEMORY_BACKEND_UNAVAILABLE, TIMEOUT: again later under the same key,
   * for it may have happened; BREAKER_OPEN: it was not asked.
   */
  remember(tenant: string, memories: readonly Remembering[]): Promise<readonly (Fault | undefined)[]>;
  /** Has a memory forgotten; one that the backend does not know is. Faults as above. */
  forget(tenant: string, memoryId: string, version: number, idempotencyKey: string): Promise<void>;
  readonly state: BreakerState;
  close(): void;
}

export interface MemoryBackendOptions {
  readonly baseUrl: string;
  readonly apiKey: string | undefined;
  readonly timeoutMs: number;
  /** How long an open breaker stays so; 5 s. */
  readonly resetTimeoutMs?: number;
  readonly http: BoundedFetch;
  readonly log: Logger;
  readonly metrics: Metrics;
}

interface Answer {
  readonly status: number;
  readonly retryAfter: string | null;
  readonly body: unknown;
}

/**
 * 408, 425 and 429 say "not now", 401 and 403 that our key is not the backend's, whatever the memory: with a new one the
 * same request will do. Any other 4xx says that it never will.
 */
const notNow: ReadonlySet<number> = new Set([401, 403, 408, 425, 429]);
/** Half of the calls of 10 s, five at least: a request may hold many memories, so there are few of them. */
const breakerRules = { errorThresholdPercentage: 50, volumeThreshold: 5 };
const largestAnswer = 1 << 20;

export function memoryBackend(options: MemoryBackendOptions): MemoryBackend {
  const { apiKey, timeoutMs, http, log, metrics } = options;
  const base = options.baseUrl.replace(/\/+$/, '');
  const requests = metrics.counter('memory_backend_requests_total', {
    help: 'Requests to the memory backend, by route and outcome (ok, refused, unavailable, timeout, breaker_open).',
    labels: ['route', 'outcome'],
  });
  const seconds = metrics.histogram('memory_backend_request_seconds', {
    help: 'Time of a request to the memory backend.',
    labels: ['route'],
  });
  const breaker: Breaker = createBreaker({
    name: 'memory-backend',
    timeoutMs,
    ...breakerRules,
    resetTimeoutMs: options.resetTimeoutMs ?? 5_000,
    counts: (error) => isFault(error, 'MEMORY_BACKEND_UNAVAILABLE') || isFault(error, 'TIMEOUT'),
    metrics,
    log,
  });

  /** Sends one request. @throws MEMORY_BACKEND_UNAVAILABLE, TIMEOUT, BREAKER_OPEN, MEMORY_BACKEND_REFUSED. */
  async function post(route: string, tenant: string, idempotencyKey: string, body: object): Promise<Answer> {
    const began = performance.now();
    let outcome = 'ok';
    try {
      return await breaker.run((signal) =>
        withSpan(`POST ${route}`, { kind: 'client' }, async () => {
          const traceparent = currentTraceparent();
          const answer = await sent(`${base}${route}`, signal, JSON.stringify(body), {
            'content-type': 'application/json',
            accept: 'application/json',
            'idempotency-key': idempotencyKey,
            'x-tenant-id': tenant,
            ...(traceparent === undefined ? {} : { traceparent }),
            ...(apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` }),
          });
          const failure = failureOf(answer.status, answer.retryAfter);
          if (failure !== undefined) throw failure;
          return answer;
        }),
      );
    } catch (error) {
      outcome = outcomeOf(error);
      throw error;
    } finally {
      requests.add(1, { route, outcome });
      seconds.record((performance.now() - began) / 1_000, { route });
    }
  }

  async function sent(
    url: string,
    signal: AbortSignal,
    body: string,
    headers: Record<string, string>,
  ): Promise<Answer> {
    try {
      const response = await http.fetch(url, { method: 'POST', headers, body, signal });
      return {
        status: response.status,
        retryAfter: response.headers.get('retry-after'),
        body: readJson(await readText(response)),
      };
    } catch (error) {
      // Refused, cut, silent: what the backend has done of it nobody knows.
      if (signal.aborted || isFault(error)) throw error;
      throw fault('MEMORY_BACKEND_UNAVAILABLE', 'the memory backend did not answer', { cause: error });
    }
  }

  async function one(tenant: string, { version, idempotencyKey, item }: Remembering): Promise<void> {
    await post('/memory/remember', tenant, idempotencyKey, bodyOf(version, idempotencyKey, item));
  }

  return {
    async remember(tenant, memories) {
      const [only] = memories;
      if (only === undefined) return [];
      if (memories.length === 1) return [await failureIn(one(tenant, only))];
      if (breaker.state !== 'closed') {
        // The call that shows whether it is back costs one memory a try, not all that wait.
        const [failure] = await this.remember(tenant, [only]);
        const rest = memories.slice(1);
        return [failure, ...(failure === undefined ? await this.remember(tenant, rest) : rest.map(notAsked))];
      }
      try {
        const key = createHash('sha256');
        for (const { idempotencyKey } of memories) key.update(idempotencyKey);
        const { body } = await post('/memory/remember/batch', tenant, key.digest('hex'), {
          memories: memories.map(({ version, idempotencyKey, item, traceparent }) => ({
            ...bodyOf(version, idempotencyKey, item),
            ...(traceparent === undefined ? {} : { traceparent }),
          })),
        });
        return outcomesIn(body, memories);
      } catch (error) {
        const failure = asFault(error);
        if (failure.code !== 'MEMORY_BACKEND_REFUSED') return memories.map(() => failure);
        // One of them, or their number, is what it does not take: each alone is judged alone.
        const failures: (Fault | undefined)[] = [];
        for (const memory of memories) failures.push(await failureIn(one(tenant, memory)));
        return failures;
      }
    },
    async forget(tenant, memoryId, version, idempotencyKey) {
      const body = { memory_id: memoryId, version, idempotency_key: idempotencyKey };
      try {
        await post('/recall/delete', tenant, idempotencyKey, body);
      } catch (error) {
        // It has nothing to forget, which is what was asked for.
        if (isFault(error, 'MEMORY_BACKEND_REFUSED') && [404, 410].includes(Number(error.details?.status)))
          return;
        throw error;
      }
    },
    get state() {
      return breaker.state;
    },
    close: () => breaker.close(),
  };
}

function notAsked(): Fault {
  return fault('BREAKER_OPEN', 'the memory backend was asked about another one first');
}

function bodyOf(version: number, idempotencyKey: string, item: MemoryItem): object {
  return { ...item, version, idempotency_key: idempotencyKey };
}

/** Why a status is no success; undefined for 2xx. */
function failureOf(status: number, retryAfter: string | null): Fault | undefined {
  if (status >= 200 && status < 300) return undefined;
  if (status >= 400 && status < 500 && !notNow.has(status)) {
    return fault('MEMORY_BACKEND_REFUSED', `the memory backend answered ${status}`, { details: { status } });
  }
  const retryAfterMs = retryAfterIn(retryAfter);
  return fault('MEMORY_BACKEND_UNAVAILABLE', `the memory backend answered ${status}`, {
    details: { status },
    ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
  });
}

/** Seconds, or a date (RFC 9110, 10.2.3), as milliseconds from now. */
export function retryAfterIn(header: string | null, now = Date.now()): number | undefined {
  if (header === null) return undefined;
  if (/^\d{1,9}$/.test(header)) return Number(header) * 1_000;
  const at = Date.parse(header);
  return Number.isNaN(at) ? undefined : Math.max(0, at - now);
}

/** By place, from `{results: [{memory_id, version, status}]}`; what the answer does not name is not known to be there. */
function outcomesIn(body: unknown, memories: readonly Remembering[]): (Fault | undefined)[] {
  const statuses = new Map<string, number>();
  const results = fieldOf(body, 'results');
  for (const result of Array.isArray(results) ? results : []) {
    const status = fieldOf(result, 'status');
    if (typeof status === 'number') {
      statuses.set(`${fieldOf(result, 'memory_id')} ${fieldOf(result, 'version')}`, status);
    }
  }
  return memories.map(({ version, item }) => {
    const status = statuses.get(`${item.memory_id} ${version}`);
    return status === undefined
      ? fault('MEMORY_BACKEND_UNAVAILABLE', 'the answer of the memory backend leaves this memory out')
      : failureOf(status, null);
  });
}

function fieldOf(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null ? Reflect.get(value, name) : undefined;
}

async function readText(response: Response): Promise<string> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of response.body ?? []) {
    size += chunk.length;
    if (size > largestAnswer) {
      throw fault('MEMORY_BACKEND_UNAVAILABLE', 'the memory backend answered more than 1 MiB');
    }
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}

/** Only batches need their answer read; whatever it is, the status has spoken. */
function readJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

async function failureIn(call: Promise<void>): Promise<Fault | undefined> {
  try {
    await call;
    return undefined;
  } catch (error) {
    return asFault(error);
  }
}

function outcomeOf(error: unknown): string {
  if (isFault(error, 'MEMORY_BACKEND_REFUSED')) return 'refused';
  if (isFault(error, 'BREAKER_OPEN')) return 'breaker_open';
  return isFault(error, 'TIMEOUT') ? 'timeout' : 'unavailable';
}
