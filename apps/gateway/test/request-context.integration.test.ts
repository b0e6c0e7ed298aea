import { newId } from '@signalbox/contracts/ids';
import { call } from '@signalbox/testkit/api-call';
import type { SpawnedService } from '@signalbox/testkit/service';
import { type SpanCollector, startSpanCollector } from '@signalbox/testkit/span-collector';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { type GatewayFixture, gatewayFixture, post } from './gateway-fixture.ts';

let fixture: GatewayFixture;
let gateway: SpawnedService;
let collector: SpanCollector;
let acme: string;

beforeAll(async () => {
  [fixture, collector] = await Promise.all([gatewayFixture(), startSpanCollector()]);
  // The broker is away, so that the rows stay and show their headers.
  gateway = await fixture.start({
    OTEL_EXPORTER_OTLP_ENDPOINT: collector.url,
    KAFKA_BOOTSTRAP_SERVERS: '127.0.0.1:9',
  });
  acme = fixture.keys.acme;
});
afterAll(async () => {
  await fixture?.close();
  await collector?.close();
});

async function outboxHeaders(eventId: string): Promise<Record<string, string>> {
  const [row] = await fixture.db.query<{ headers: Record<string, string> }>(
    'select headers from messaging.outbox where event_id = $1',
    [eventId],
  );
  return row?.headers ?? {};
}

it.each(['abc', 'A.b_c-9', 'x'.repeat(128)])(
  'keeps the sane request id %s, in reply, log and record',
  async (id) => {
    const { headers, body } = await post(gateway, acme, { message: 'x' }, { 'x-request-id': id });
    expect(headers.get('x-request-id')).toBe(id);
    expect((await outboxHeaders(body.event_id))['x-request-id']).toBe(id);
    const record = await gateway.log('http.request', (each) => each.request_id === id);
    expect(record).toMatchObject({
      tenant_id: 'acme',
      session_id: body.session_id,
      method: 'POST',
      path: '/v1/session/message',
      status: 202,
      duration_ms: expect.any(Number),
      service: 'gateway',
    });
  },
);

it.each(['', 'a b', 'ü', 'x'.repeat(129), 'a"b', '../x'])('makes a new request id for %j', async (id) => {
  const { headers } = await call(gateway, '/live', {
    headers: { 'x-request-id': encodeURI(id) === id ? id : 'a b' },
  });
  expect(headers.get('x-request-id')).toMatch(/^[0-9a-f-]{36}$/);
});

it('continues a trace from outside into the record and its spans', async () => {
  const traceId = newId().replaceAll('-', '');
  const traceparent = `00-${traceId}-00f067aa0ba902b7-01`;
  const { body } = await post(gateway, acme, { message: 'x' }, { traceparent });
  const headers = await outboxHeaders(body.event_id);
  expect(headers.traceparent).toMatch(new RegExp(`^00-${traceId}-[0-9a-f]{16}-01$`));
  expect(headers).toMatchObject({
    trace_id: traceId,
    tenant_id: 'acme',
    session_id: body.session_id,
    event_id: body.event_id,
    event_type: 'message.posted',
    schema: 'conversation.inbound.v1',
    ce_id: body.event_id,
    ce_source: expect.any(String),
    ce_specversion: '1.0',
  });
  const span = await collector.find((each) => each.attributes['signalbox.event_id'] === body.event_id);
  expect(span).toMatchObject({ traceId, parentSpanId: '00f067aa0ba902b7', name: 'POST /v1/session/message' });
  expect(span.attributes).toMatchObject({
    'signalbox.turn_id': body.turn_id,
    'signalbox.session_id': body.session_id,
    'signalbox.tenant_id': 'acme',
    'http.response.status_code': 202,
  });
  expect(headers.span_id).toBe(span.spanId);
});

it.each([
  '',
  'x',
  '00-0-0-0',
  `00-${'0'.repeat(32)}-00f067aa0ba902b7-01`,
  `ff-${'a'.repeat(32)}-00f067aa0ba902b7-01`,
])('begins a new trace for the traceparent %j', async (traceparent) => {
  const { status, body } = await post(gateway, acme, { message: 'x' }, { traceparent });
  expect(status).toBe(202);
  const { trace_id: traceId } = await outboxHeaders(body.event_id);
  expect(traceId).toMatch(/^[0-9a-f]{32}$/);
  expect(traceId).not.toMatch(/^(0+|a+)$/);
});

it('gives requests of one tick each their own trace', async () => {
  const traces = Array.from({ length: 20 }, () => newId().replaceAll('-', ''));
  const answers = await Promise.all(
    traces.map((id) =>
      post(gateway, acme, { message: 'x' }, { traceparent: `00-${id}-00f067aa0ba902b7-01` }),
    ),
  );
  const found = await Promise.all(
    answers.map(async ({ body }) => (await outboxHeaders(body.event_id)).trace_id),
  );
  expect(found).toEqual(traces);
});

it('writes no key, no query and no content into its log', async () => {
  await post(gateway, acme, { message: 'a very private sentence' });
  await call(gateway, '/v1/sessions?before=private-query', { key: acme });
  const record = await waitFor(
    () => gateway.logs.find((each) => each.event === 'http.request' && each.status === 400),
    (each) => each !== undefined,
    { label: 'the record of the bad request' },
  );
  expect(record).toMatchObject({ path: '/v1/sessions', error_code: 'MALFORMED_REQUEST' });
  const all = JSON.stringify(gateway.logs);
  for (const secret of [acme, 'private-query', 'private sentence']) expect(all).not.toContain(secret);
});
