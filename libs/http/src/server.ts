import type { Socket } from 'node:net';
import fastifyWebsocket from '@fastify/websocket';
import { fault } from '@signalbox/faults/fault';
import type { Lifecycle } from '@signalbox/lifecycle/lifecycle';
import type { Board } from '@signalbox/readiness/board';
import type { Logger, Telemetry } from '@signalbox/telemetry/telemetry';
import fastify, { type ConnectionError } from 'fastify';
import { createCors } from './cors.ts';
import { createDrain } from './drain.ts';
import { healthRoutes } from './health-routes.ts';
import { jsonBodies } from './json-body.ts';
import { createObserver } from './observe-request.ts';
import { type OpenApiOptions, openApi } from './openapi.ts';
import { faultOf, problemOf, problemType, retryAfterSeconds } from './problem.ts';
import { requestIdFrom } from './request-id.ts';
import { pathOf } from './request-path.ts';
import { securityHeaders, strictTransport } from './security-headers.ts';
import { socketProblem } from './socket-problem.ts';
import { createStreamRegistry } from './stream-registry.ts';
import type { FastifyReply, FastifyRequest, HttpServer } from './types.ts';
import { compileValidator } from './validation.ts';

/** The settings a server reads; those of `libs/config` fit. What answers callers has the optional ones too. */
export interface ServerSettings {
  readonly serviceName: string;
  readonly serviceVersion: string;
  readonly serviceCommit?: string;
  readonly host: string;
  readonly port: number;
  readonly metricsEnabled: boolean;
  readonly corsOrigins?: readonly string[];
  readonly apiKeyHeader?: string;
  readonly bodyLimitBytes?: number;
  readonly requestTimeoutMs?: number;
  readonly trustProxy?: boolean;
  readonly maxConnections?: number;
  readonly lastScrapeMs?: number;
}

export interface ServerOptions {
  readonly settings: ServerSettings;
  readonly log: Logger;
  readonly telemetry: Pick<Telemetry, 'metrics' | 'metricsText'>;
  readonly board: Board;
  readonly lifecycle: Pick<Lifecycle, 'onStop' | 'stopEvent'>;
  /** Serves /openapi.json and /docs. */
  readonly openapi?: Omit<OpenApiOptions, 'version' | 'apiKeyHeader'>;
}

/** Head and body of a request must arrive within these; a client that drips them holds its socket no longer. */
const headersTimeoutMs = 10_000;
const requestTimeoutMs = 30_000;
/** Longer than load balancers keep idle connections (60 s), so that they close first and never send into a closed one. */
const keepAliveTimeoutMs = 72_000;
const maxConnections = 20_000;
const maxSocketMessageBytes = 64 * 1024;

/**
 * Makes the HTTP server of a service: health routes, /version and /metrics; strict bodies; problem replies for
 * everything that fails; request id, trace, CORS and security headers on every reply; the drain in the order of the
 * lifecycle. Routes are added to it right after; `listen()` without arguments takes address and port of the settings.
 */
export function createServer(options: ServerOptions): HttpServer {
  const { settings, log, telemetry, board, lifecycle } = options;
  const apiKeyHeader = settings.apiKeyHeader ?? 'X-API-Key';
  const requestMs = settings.requestTimeoutMs ?? requestTimeoutMs;
  const server: HttpServer = fastify({
    logger: false,
    genReqId: ({ headers }) => requestIdFrom(headers['x-request-id']),
    bodyLimit: settings.bodyLimitBytes ?? 1_048_576,
    requestTimeout: requestMs,
    keepAliveTimeout: keepAliveTimeoutMs,
    // Node swaps the two when the head may take longer than the whole.
    http: {
      headersTimeout: Math.min(headersTimeoutMs, requestMs),
      connectionsCheckingInterval: 2000,
      maxHeaderSize: 16_384,
    },
    // Draining is answered by our own hook, with a problem reply.
    return503OnClosing: false,
    forceCloseConnections: true,
    trustProxy: settings.trustProxy ?? false,
    routerOptions: { maxParamLength: 512 },
    frameworkErrors: (error, request, reply) => {
      dress(request, reply);
      observer.begin(request, reply, () => answerFailure(error, request, reply));
    },
    clientErrorHandler: (error: ConnectionError, socket: Socket) => socketProblem(error, socket, log),
  }).withTypeProvider();
  server.server.maxConnections = settings.maxConnections ?? maxConnections;

  const streamEnds = telemetry.metrics.counter('http_streams_ended_total', {
    help: 'Event streams and sockets that ended, by who ended them.',
    labels: ['reason'],
  });
  const streams = createStreamRegistry((reason) => streamEnds.add(1, { reason }));
  server.decorate('streams', streams);
  const lastScrapeMs = settings.lastScrapeMs ?? 0;
  const drain = createDrain({ server, streams, board, lifecycle, lastScrapeMs });
  const observer = createObserver({ log, metrics: telemetry.metrics });
  const checkOrigin = createCors({ origins: settings.corsOrigins ?? [], apiKeyHeader, log });

  // The WebSocket plugin, like the OpenAPI one, is called and not registered: its route hook must be there before the
  // routes that the caller adds in this same tick.
  fastifyWebsocket(server, { options: { maxPayload: maxSocketMessageBytes } }, () => undefined);
  server.setValidatorCompiler(compileValidator);
  // Response schemas describe, they do not filter: a serializer made from one drops what it does not name.
  server.setSerializerCompiler(() => (body) => JSON.stringify(body));
  jsonBodies(server);

  server.decorateRequest('rawBody', undefined);
  server.addHook('onRequest', (request, reply, done) => {
    dress(request, reply);
    observer.begin(request, reply, () => {
      try {
        drain.admit(request, reply);
        if (!checkOrigin(request, reply)) done();
      } catch (refused) {
        done(faultOf(refused));
      }
    });
  });

  server.addHook('onSend', (_request, reply, _payload, done) => {
    drain.partWith(reply);
    done();
  });

  server.setErrorHandler((error, request, reply) => answerFailure(error, request, reply));
  server.setNotFoundHandler(() => {
    throw fault('NOT_FOUND', 'there is nothing at this path');
  });

  function answerFailure(error: unknown, request: FastifyRequest, reply: FastifyReply): void {
    const failure = faultOf(error);
    const traceId = request.observed?.traceId;
    const problem = problemOf(failure, { path: pathOf(request.url), requestId: request.id, traceId });
    if (request.observed !== undefined)
      request.observed.failure = { fault: failure, errorId: problem.error_id };
    // fastify closes the connection when a body is refused; one that was read to its end leaves nothing behind.
    if (request.rawBody !== undefined && failure.code !== 'DRAINING') {
      reply.header('connection', reply.raw.shouldKeepAlive ? 'keep-alive' : 'close');
    }
    const retryAfter = retryAfterSeconds(failure);
    if (retryAfter !== undefined) reply.header('retry-after', retryAfter);
    if (failure.status === 401) reply.header('www-authenticate', 'Bearer realm="signalbox"');
    reply
      .code(failure.status)
      .header('cache-control', 'no-store')
      .type(problemType)
      .send(JSON.stringify(problem));
  }

  if (options.openapi !== undefined) {
    openApi(server, { ...options.openapi, version: settings.serviceVersion, apiKeyHeader });
  }
  healthRoutes(server, {
    board,
    name: settings.serviceName,
    version: settings.serviceVersion,
    commit: settings.serviceCommit ?? 'unknown',
    metricsText: settings.metricsEnabled ? telemetry.metricsText : undefined,
    onScrape: drain.scraping,
  });
  return listening(server, settings);
}

/** What every reply carries, whatever becomes of the request. */
function dress(request: FastifyRequest, reply: FastifyReply): void {
  reply.headers(securityHeaders);
  reply.header('x-request-id', request.id);
  if (request.protocol === 'https') reply.header(...strictTransport);
}

/** `listen()` without arguments listens where the settings say. */
function listening(server: HttpServer, { host, port }: ServerSettings): HttpServer {
  const listen = server.listen.bind(server);
  // fastify overloads listen with callbacks; the promise form is the only one used here.
  Object.defineProperty(server, 'listen', {
    value: (where: { host?: string; port?: number } = {}) => listen({ host, port, backlog: 1024, ...where }),
  });
  return server;
}

/** The port that a listening server has got: what PORT=0 became. */
export function portOf(server: HttpServer): number {
  const address = server.server.address();
  return typeof address === 'object' && address !== null ? address.port : 0;
}
