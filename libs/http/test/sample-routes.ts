import { fault } from '@signalbox/faults/fault';
import { Type } from 'typebox';
import { identifyRequest } from '../src/observe-request.ts';
import type { HttpServer } from '../src/types.ts';

const Body = Type.Object(
  {
    count: Type.Integer(),
    name: Type.Optional(Type.String({ minLength: 1 })),
    inside: Type.Optional(Type.Object({ a: Type.Optional(Type.Boolean()) }, { additionalProperties: false })),
  },
  { additionalProperties: false },
);
const Query = Type.Object(
  { limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 10 })) },
  { additionalProperties: false },
);

/** One route for each way a request can go. */
export function sampleRoutes(server: HttpServer, onInside: () => void = () => undefined): void {
  server.post('/v1/things', { schema: { body: Body } }, (request, reply) => {
    reply.code(202).send({ ...request.body, bytes: request.rawBody?.length });
  });
  server.get('/v1/things/:id', { schema: { querystring: Query } }, (request) => ({
    limit: request.query.limit ?? null,
  }));
  server.get('/v1/defect', () => {
    throw new TypeError('connection to postgres://user:secret@db failed');
  });
  server.get('/v1/away', () => {
    throw fault('DATABASE_UNAVAILABLE', 'the database is away', { retryAfterMs: 2500 });
  });
  server.get('/v1/who', (request) => {
    identifyRequest(request, { tenantId: 'acme', sessionId: 's1' });
    onInside();
    return {};
  });
  server.get('/v1/refused', () => {
    throw fault('UNAUTHENTICATED', 'no key');
  });
}
