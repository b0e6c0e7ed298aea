import { createHash } from 'node:crypto';
import { fault } from '@signalbox/faults/fault';
import { identifyRequest } from '@signalbox/http/observe-request';
import type { FastifyReply, FastifyRequest, FastifySchema, HttpServer } from '@signalbox/http/types';
import type { Database } from '@signalbox/postgres/database';
import { attribute } from '@signalbox/telemetry/trace';
import { Type } from 'typebox';
import { createIdempotencyStore, type Effect, keyReused } from './idempotency-store.ts';
import { callerOf } from './request-caller.ts';
import { createSingleFlight } from './single-flight.ts';

/** What a write is answered with. A refusal is a fault: nothing of it is kept, and the same key may succeed later. */
export interface WriteAnswer {
  /** 200 to 299. */
  readonly status: number;
  readonly body?: object;
  readonly location?: string;
}

export interface Settled {
  readonly answer: WriteAnswer;
  /** The answer is that of an earlier request with the same Idempotency-Key. */
  readonly replayed: boolean;
}

/** What makes two requests the same write. */
export interface Write {
  readonly tenant: string;
  /** `POST /v1/session/message`: method and path as declared. */
  readonly route: string;
  /** Undefined: the client sent none. */
  readonly key: string | undefined;
  /** SHA-256 of the body as it came, behind the path where the path says more than the route. Empty without a key. */
  readonly bodyHash: Buffer;
}

export interface OnceOptions {
  /** Throws when nothing new may come in now. A repeat that has its answer gets it all the same. */
  admit?(): void;
}

/** Every write of the API goes through here (delivery rule 24). */
export interface WriteRoutes {
  /**
   * Looks at every route that is added to the server from now on: one of a method that writes and not declared by `declare`
   * or `declareRead` is an error of the start, a write that answers 2xx past `once` and `settle` an INTERNAL_ERROR.
   */
  guard(server: HttpServer): void;
  /** Options of a route that writes: its schema with the header Idempotency-Key. */
  declare<S extends FastifySchema>(schema: S): DeclaredWrite<S>;
  /** Options of a route that only reads, by a method that usually writes: a search whose question is a body. */
  declareRead<S extends FastifySchema>(schema: S): DeclaredRead<S>;
  /**
   * Has the effect once for each key and replies. The effect runs in a transaction of the caller's tenant, again when its
   * outcome is unknown: ids that it stores or sends are made before, outside of it. What depends on the state of things
   * is asked inside, so that a repeat is answered from its key whatever has changed since.
   */
  once(request: FastifyRequest, reply: FastifyReply, effect: Effect, options?: OnceOptions): Promise<Settled>;
  /** The same for a write that keeps its key by a statement of its own: `go` runs for one request of a key at a time. */
  settle(
    request: FastifyRequest,
    reply: FastifyReply,
    go: (write: Write) => Promise<Settled>,
  ): Promise<Settled>;
}

const IdempotencyHeaders = Type.Object({
  'idempotency-key': Type.Optional(
    Type.String({
      description:
        'A repeat with the same key and body has no second effect and gets the first answer. Kept for IDEMPOTENCY_KEEP_HOURS.',
    }),
  ),
});

const replayedHeader = {
  'Idempotency-Replayed': {
    type: 'string',
    description: '`true`: this is the answer to an earlier request.',
  },
};

export interface DeclaredWrite<S extends FastifySchema> {
  readonly schema: S & { readonly headers: typeof IdempotencyHeaders };
  readonly config: { readonly idempotent: true };
}

export interface DeclaredRead<S extends FastifySchema> {
  readonly schema: S;
  readonly config: { readonly reads: true };
}

/** Printable ASCII without blanks: UUIDs and hashes fit, and a log or a shell cannot be tricked by one. */
const keyForm = /^[\x21-\x7e]{1,255}$/;
const reading: ReadonlySet<string> = new Set(['GET', 'HEAD', 'OPTIONS']);

export function createWriteRoutes(options: {
  readonly database: Database;
  /** The schema that holds the service's `idempotency_keys`. */
  readonly schema: string;
  readonly timeoutMs: number;
}): WriteRoutes {
  const store = createIdempotencyStore(options);
  const oneAtATime = createSingleFlight<Flown>();
  const settled = new WeakSet<FastifyRequest>();

  async function settle(
    request: FastifyRequest,
    reply: FastifyReply,
    go: (write: Write) => Promise<Settled>,
  ): Promise<Settled> {
    const write = writeOf(request);
    const { tenant, route, key, bodyHash } = write;
    const own = async (): Promise<Flown> => ({ ...(await go(write)), bodyHash });
    const result =
      key === undefined
        ? await own()
        : await oneAtATime(
            `${tenant} ${route} ${key}`,
            own,
            () => true,
            (first) => {
              if (!first.bodyHash.equals(bodyHash)) throw keyReused();
              return { ...first, replayed: true };
            },
          );
    const { answer, replayed } = result;
    settled.add(request);
    identify(request, answer.body);
    if (replayed) reply.header('idempotency-replayed', 'true');
    if (answer.location !== undefined) reply.header('location', answer.location);
    reply.code(answer.status).send(answer.body);
    return result;
  }

  function checkSettled(
    request: FastifyRequest,
    reply: FastifyReply,
    payload: unknown,
    done: (error: Error | null, payload?: unknown) => void,
  ): void {
    if (reply.statusCode >= 300 || settled.has(request)) done(null, payload);
    else done(fault('INTERNAL_ERROR', 'a write was answered past its Idempotency-Key'));
  }

  return {
    guard(server) {
      server.addHook('onRoute', (route) => {
        const writes = [route.method].flat().filter((each) => !reading.has(each));
        if (writes.length === 0 || route.config?.reads === true) return;
        if (route.config?.idempotent !== true) {
          throw fault(
            'INTERNAL_ERROR',
            `${writes.join(', ')} ${route.url} writes without an Idempotency-Key`,
          );
        }
        route.preValidation = [checkKey, ...[route.preValidation ?? []].flat()];
        route.onSend = [checkSettled, ...[route.onSend ?? []].flat()];
      });
    },

    declare: (schema) => ({
      schema: { ...schema, headers: IdempotencyHeaders, ...repliesOf(schema.response) },
      config: { idempotent: true },
    }),

    declareRead: (schema) => ({ schema, config: { reads: true } }),

    once: (request, reply, effect, { admit } = {}) =>
      settle(request, reply, async (write) => {
        try {
          admit?.();
        } catch (refusal) {
          // A repeat adds no load, and its client must not be left to wonder whether the first try went through.
          const found = await store.find(write);
          if (found === undefined) throw refusal;
          return found;
        }
        return await store.once(write, effect);
      }),

    settle,
  };
}

interface Flown extends Settled {
  readonly bodyHash: Buffer;
}

/** Every 2xx of a documented response may be that of an earlier request. */
function repliesOf(response: unknown): { response?: Record<string, unknown> } {
  if (typeof response !== 'object' || response === null) return {};
  const told = Object.entries(response).map(([status, reply]: [string, unknown]) =>
    status.startsWith('2') && typeof reply === 'object'
      ? [status, { ...reply, headers: replayedHeader }]
      : [status, reply],
  );
  return { response: Object.fromEntries(told) };
}

/** What is answered says what it is about, also when another request had the effect. */
function identify(request: FastifyRequest, body: object | undefined): void {
  const { session_id: sessionId, event_id: eventId, turn_id: turnId }: Record<string, unknown> = { ...body };
  if (typeof sessionId === 'string') identifyRequest(request, { sessionId });
  const { span } = request.observed;
  if (typeof eventId === 'string') span?.setAttribute(attribute.eventId, eventId);
  if (typeof turnId === 'string') span?.setAttribute(attribute.turnId, turnId);
}

function writeOf(request: FastifyRequest): Write {
  const { method, url, routeOptions, rawBody } = request;
  const declared = routeOptions.url ?? '';
  const key = keyOf(request);
  const write = { tenant: callerOf(request).tenant, route: `${method} ${declared}`, key };
  if (key === undefined) return { ...write, bodyHash: Buffer.alloc(0) };
  const digest = createHash('sha256');
  // One key for two things of a path with parameters is as wrong as one for two bodies. No JSON begins with a slash.
  if (url !== declared) digest.update(`${url}\n`);
  if (rawBody !== undefined) digest.update(rawBody);
  return { ...write, bodyHash: digest.digest() };
}

function checkKey(request: FastifyRequest, _reply: FastifyReply, done: () => void): void {
  keyOf(request);
  done();
}

function keyOf(request: FastifyRequest): string | undefined {
  const header = request.headers['idempotency-key'];
  const key = Array.isArray(header) ? header.join(', ') : header;
  if (key === undefined || keyForm.test(key)) return key;
  throw fault('MALFORMED_REQUEST', 'an Idempotency-Key is 1 to 255 printable ASCII characters', {
    errors: [{ path: 'headers/idempotency-key', message: 'must match [!-~]{1,255}' }],
  });
}
