import { createParser } from 'eventsource-parser';
import { waitFor } from './wait.ts';

export interface SseEvent {
  readonly id: string | undefined;
  readonly event: string;
  /** Parsed JSON, or the text where it is not JSON. */
  readonly data: unknown;
  readonly raw: string;
  /** performance.now() at arrival. */
  readonly atMs: number;
}

export interface SseOptions {
  readonly headers?: Record<string, string>;
  readonly lastEventId?: string;
}

export type SseEnd = 'server' | 'client' | 'error';

export interface SseStream {
  readonly status: number;
  readonly headers: Headers;
  /** Everything that came, in order. */
  readonly events: readonly SseEvent[];
  readonly comments: readonly string[];
  /** The last `retry:` hint, in ms. */
  readonly retryMs: () => number | undefined;
  readonly lastEventId: () => string | undefined;
  /** The first event that satisfies the predicate, among those that came and those to come. */
  event(matches: (event: SseEvent) => boolean, timeoutMs?: number): Promise<SseEvent>;
  /** Waits until the events as a whole satisfy the predicate. */
  until(reached: (events: readonly SseEvent[]) => boolean, timeoutMs?: number): Promise<readonly SseEvent[]>;
  /** How the stream ended. */
  readonly ended: Promise<SseEnd>;
  /** Resumes after the last id seen, with the same headers. */
  reconnect(): Promise<SseStream>;
  close(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

/** A reply that was no event stream. */
export class SseRefused extends Error {
  readonly status: number;
  readonly body: string;
  readonly headers: Headers;
  constructor(status: number, body: string, headers: Headers) {
    super(`no event stream: ${status} ${body.slice(0, 500)}`);
    this.name = 'SseRefused';
    this.status = status;
    this.body = body;
    this.headers = headers;
  }
}

/** Opens an event stream (WHATWG server-sent events). Throws SseRefused when the answer is something else. */
export async function openSse(url: string, options: SseOptions = {}): Promise<SseStream> {
  const abort = new AbortController();
  const headers = { accept: 'text/event-stream', ...options.headers };
  const response = await fetch(url, {
    headers:
      options.lastEventId === undefined ? headers : { ...headers, 'last-event-id': options.lastEventId },
    signal: abort.signal,
  });
  const type = response.headers.get('content-type') ?? '';
  if (response.status !== 200 || !type.startsWith('text/event-stream') || response.body === null) {
    throw new SseRefused(response.status, await response.text(), response.headers);
  }
  const events: SseEvent[] = [];
  const comments: string[] = [];
  let retryMs: number | undefined;
  let lastEventId = options.lastEventId;
  const parser = createParser({
    onEvent({ id, event, data }) {
      lastEventId = id ?? lastEventId;
      events.push({ id, event: event ?? 'message', data: parsed(data), raw: data, atMs: performance.now() });
    },
    onComment: (comment) => comments.push(comment),
    onRetry: (ms) => {
      retryMs = ms;
    },
  });
  const ended = feed(response.body, parser.feed, abort.signal);
  const until: SseStream['until'] = (reached, timeoutMs = 10_000) =>
    waitFor(() => events, reached, { timeoutMs, intervalMs: 5, label: `events of ${url}` });
  const close = async () => {
    abort.abort();
    await ended;
  };
  return {
    status: response.status,
    headers: response.headers,
    events,
    comments,
    retryMs: () => retryMs,
    lastEventId: () => lastEventId,
    until,
    async event(matches, timeoutMs = 10_000) {
      const all = await until((seen) => seen.some(matches), timeoutMs);
      const found = all.find(matches);
      if (found === undefined) {
        throw new Error('the predicate changed its mind');
      }
      return found;
    },
    ended,
    reconnect: () => openSse(url, lastEventId === undefined ? options : { ...options, lastEventId }),
    close,
    [Symbol.asyncDispose]: close,
  };
}

async function feed(
  body: ReadableStream<Uint8Array>,
  take: (text: string) => void,
  signal: AbortSignal,
): Promise<SseEnd> {
  const decoder = new TextDecoder();
  try {
    for await (const chunk of body) {
      take(decoder.decode(chunk, { stream: true }));
    }
    return 'server';
  } catch {
    return signal.aborted ? 'client' : 'error';
  }
}

function parsed(data: string): unknown {
  try {
    return JSON.parse(data);
  } catch {
    return data;
  }
}
