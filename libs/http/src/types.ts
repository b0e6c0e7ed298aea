import type { IncomingMessage, ServerResponse } from 'node:http';
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox';
import type { FastifyBaseLogger, FastifyInstance, RawServerDefault } from 'fastify';
import type { ObservedRequest } from './observe-request.ts';
import type { StreamRegistry } from './stream-registry.ts';

export type { WebSocket } from '@fastify/websocket';
export type {
  FastifyInstance,
  FastifyReply,
  FastifyRequest,
  FastifySchema,
  RouteShorthandOptions,
} from 'fastify';

/** A server of `createServer`: routes get their types from their TypeBox schemas. */
export type HttpServer = FastifyInstance<
  RawServerDefault,
  IncomingMessage,
  ServerResponse,
  FastifyBaseLogger,
  TypeBoxTypeProvider
>;

declare module 'fastify' {
  interface FastifyInstance {
    /** Open event streams and sockets of this server. */
    readonly streams: StreamRegistry;
  }

  interface FastifyRequest {
    /** What is known of the request: its trace, its tenant once a credential was checked, how it ended. */
    observed: ObservedRequest;
    /** The body as it came, for a digest; only where it was JSON. */
    rawBody: Buffer | undefined;
    /** Tells that the reply is a stream now: it counts as answered, its duration is not that of a request. */
    streamOpened(): void;
  }

  interface FastifyContextConfig {
    /** No credential is asked for. */
    open?: boolean;
    /** Logged at DEBUG and not traced: probes come every second. */
    quiet?: boolean;
    /** Changes something and takes an Idempotency-Key; the service that serves the route says how. */
    idempotent?: boolean;
    /** Changes nothing, whatever its method. */
    reads?: boolean;
  }
}
