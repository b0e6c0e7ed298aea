import { request } from 'node:http';
import { headersOf } from './request.ts';

/** An event as a client got it. */
export interface SeenEvent {
  readonly id: string;
  readonly type: string;
  readonly data: { readonly turn_id: string; readonly attempt: number; readonly [field: string]: unknown };
  /** performance.now() at arrival. */
  readonly atMs: number;
}

export interface FollowOptions {
  readonly url: string;
  readonly key: string;
  readonly sessionId: string;
  /** Where it begins; without one where the stream does for a new client. */
  readonly lastEventId?: string;
  /** Leaves after so many events of a connection and comes back, to another replica as it happens. */
  readonly hopAfter?: number;
  readonly onEvent?: (event: SeenEvent) => void;
}

export interface Follower {
  /** Everything that came over all connections, in the order it came. */
  readonly events: readonly SeenEvent[];
  /** Connections that were made after the first. */
  readonly reconnects: number;
  /** What no stream may answer: any status but 200, 429 and 503. */
  readonly refusals: readonly string[];
  /** Resolves when a first connection is open: from then on nothing may be missed. */
  readonly opened: Promise<void>;
  close(): void;
}

/** Gateways send a comment each 500 ms: who says nothing for so long is not there any more. */
const silentMs = 2_500;
const pauseMs = 50;

/** Follows a session as a good client does: on every end and every silence again, from the last id it has seen. */
export function follow(options: FollowOptions): Follower {
  const events: SeenEvent[] = [];
  const refusals: string[] = [];
  const opened = Promise.withResolvers<void>();
  let connections = 0;
  let lastId = options.lastEventId;
  let closed = false;
  let leave: () => void = () => undefined;

  function connectOnce(): Promise<void> {
    const { promise: over, resolve } = Promise.withResolvers<void>();
    const lastEventId = lastId;
    const outgoing = request(`${options.url}/v1/session/${options.sessionId}/events`, {
      agent: false,
      headers: headersOf(options.key, {
        accept: 'text/event-stream',
        ...(lastEventId === undefined ? {} : { 'last-event-id': lastEventId }),
      }),
    });
    leave = () => outgoing.destroy();
    let heardAt = performance.now();
    const watch = setInterval(() => {
      if (performance.now() - heardAt > silentMs) outgoing.destroy();
    }, 250);
    let here = 0;
    outgoing.on('error', () => undefined);
    outgoing.on('close', () => {
      clearInterval(watch);
      resolve();
    });
    outgoing.on('response', (response) => {
      heardAt = performance.now();
      response.on('error', () => undefined);
      if (response.statusCode !== 200) {
        if (response.statusCode !== 503 && response.statusCode !== 429)
          refusals.push(`${response.statusCode} after ${lastEventId ?? 'nothing'}`);
        response.resume();
        return;
      }
      connections += 1;
      opened.resolve();
      let rest = '';
      response.setEncoding('utf8');
      response.on('data', (chunk: string) => {
        heardAt = performance.now();
        rest += chunk;
        for (let end = rest.indexOf('\n\n'); end !== -1; end = rest.indexOf('\n\n')) {
          const { id, event } = readBlock(rest.slice(0, end), heardAt);
          rest = rest.slice(end + 2);
          if (outgoing.destroyed) continue;
          // An id alone is a place too (HTML standard, 9.2.6): where a stream begins that has had no event yet.
          lastId = id ?? lastId;
          if (event === undefined) continue;
          events.push(event);
          options.onEvent?.(event);
          here += 1;
          if (here === options.hopAfter) outgoing.destroy();
        }
      });
    });
    outgoing.end();
    return over;
  }

  void (async () => {
    while (!closed) {
      await connectOnce();
      await new Promise((resolve) => setTimeout(resolve, pauseMs));
    }
  })();

  return {
    events,
    refusals,
    get reconnects() {
      return Math.max(0, connections - 1);
    },
    opened: opened.promise,
    close() {
      closed = true;
      leave();
    },
  };
}

function readBlock(block: string, atMs: number): { id: string | undefined; event: SeenEvent | undefined } {
  let id: string | undefined;
  let type = '';
  let data = '';
  for (const line of block.split('\n')) {
    if (line.startsWith('data:')) data += line.slice(5).trimStart();
    else if (line.startsWith('event:')) type = line.slice(6).trim();
    else if (line.startsWith('id:')) id = line.slice(3).trim();
  }
  return { id, event: data === '' ? undefined : { id: id ?? '', type, data: JSON.parse(data), atMs } };
}
