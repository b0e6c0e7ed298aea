import type { Board } from '@signalbox/readiness/board';
import type { FastifyReply } from 'fastify';
import { Type } from 'typebox';
import type { HttpServer } from './types.ts';

const check = Type.Object(
  {
    status: Type.Enum(['ok', 'degraded', 'down', 'unknown']),
    reason: Type.Optional(Type.String()),
    latency_ms: Type.Optional(Type.Number()),
    age_ms: Type.Optional(
      Type.Number({ description: 'How long ago the check ran; requests never run one.' }),
    ),
  },
  { additionalProperties: true },
);
const checks = Type.Record(Type.String(), check);
const alive = Type.Object({ status: Type.Literal('alive') });
const ready = Type.Object({ status: Type.Literal('ready') });
const notReady = Type.Object({
  status: Type.Enum(['starting', 'draining', 'unready']),
  reason: Type.String(),
  checks,
});
const health = Type.Object({
  status: Type.Enum(['ok', 'degraded', 'down']),
  service: Type.String(),
  version: Type.String(),
  uptime_seconds: Type.Number(),
  checks,
});
const versionBody = Type.Object({
  name: Type.String(),
  version: Type.String(),
  commit: Type.String(),
  node: Type.String(),
});

const described = (description: string, schema: object) => ({ description, ...schema });

export interface HealthOptions {
  readonly board: Board;
  readonly name: string;
  readonly version: string;
  /** Revision the service was built from; `unknown` outside an image. */
  readonly commit: string;
  /** The Prometheus text; undefined when metrics are off: then the route does not exist. */
  readonly metricsText: (() => Promise<string>) | undefined;
  /** Told of a scrape before its text is made. */
  onScrape?(reply: FastifyReply): void;
}

/** What is served while the server drains and whatever else is refused. */
export const healthPaths: ReadonlySet<string> = new Set([
  '/live',
  '/health/live',
  '/ready',
  '/health/ready',
  '/health',
  '/healthz',
  '/version',
  '/metrics',
]);

/**
 * The health routes of every service. They answer from the board's last results and touch nothing else, so a probe
 * storm costs no connection and a black-holed dependency no time. Open to everybody: they tell names and states, no
 * addresses and no messages.
 */
export function healthRoutes(server: HttpServer, options: HealthOptions): void {
  const { board, name, version, commit, metricsText } = options;
  const tags = ['health'];
  // A cached answer to a probe is a wrong answer.
  const config = { open: true, quiet: true };

  for (const url of ['/live', '/health/live']) {
    const schema = { tags, summary: 'Is the process alive', response: { 200: described('It is.', alive) } };
    server.get(url, { schema, config }, (_request, reply) => {
      reply.header('cache-control', 'no-store').send({ status: 'alive' });
    });
  }
  for (const url of ['/ready', '/health/ready']) {
    const schema = {
      tags,
      summary: 'May it get traffic',
      response: {
        200: described('It may.', ready),
        503: described('It starts, drains or lacks something.', notReady),
      },
    };
    server.get(url, { schema, config }, (_request, reply) => {
      const { code, body } = board.readiness();
      reply.code(code).header('cache-control', 'no-store').send(body);
    });
  }
  const healthSchema = (summary: string, bad: string) => ({
    tags,
    summary,
    response: { 200: described('Well enough to serve.', health), 503: described(bad, health) },
  });
  server.get(
    '/health',
    { schema: healthSchema('Every check', 'A required check is down.'), config },
    (_request, reply) => {
      const { code, body } = board.health();
      reply.code(code).header('cache-control', 'no-store').send(body);
    },
  );
  server.get(
    '/healthz',
    { schema: healthSchema('Every required dependency', 'A required dependency is not good.'), config },
    (_request, reply) => {
      const { code, body } = board.healthz();
      reply.code(code).header('cache-control', 'no-store').send(body);
    },
  );
  server.get(
    '/version',
    {
      schema: { tags, summary: 'What runs here', response: { 200: described('This.', versionBody) } },
      config,
    },
    (_request, reply) => {
      reply.send({ name, version, commit, node: process.version });
    },
  );
  if (metricsText === undefined) return;
  const schema = {
    tags,
    summary: 'Metrics as Prometheus text',
    response: { 200: described('Every series of the process.', Type.String()) },
  };
  server.get('/metrics', { schema, config }, async (_request, reply) => {
    options.onScrape?.(reply);
    reply.header('content-type', 'text/plain; version=0.0.4; charset=utf-8');
    return metricsText();
  });
}
