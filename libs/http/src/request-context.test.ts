import { newId } from '@signalbox/contracts/ids';
import { startSpanCollector } from '@signalbox/testkit/span-collector';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { problemIn } from '../test/replies.ts';
import { type RunningServer, startServer } from '../test/running-server.ts';
import { sampleRoutes } from '../test/sample-routes.ts';

let running: RunningServer;

beforeAll(async () => {
  running = await startServer({
    routes: (server) => sampleRoutes(server, () => running.telemetry.log.info('inside')),
    settings: { corsOrigins: ['https://app.example'], bodyLimitBytes: 2000 },
    openapi: { title: 'Under test', description: 'A server.' },
  });
});
afterAll(() => running[Symbol.asyncDispose]());

describe('request ids and traces', () => {
  it.each(['abc', 'A.b_c-1', 'x'.repeat(128)])('keeps %s', async (id) => {
    expect(
      (await fetch(`${running.url}/live`, { headers: { 'x-request-id': id } })).headers.get('x-request-id'),
    ).toBe(id);
  });

  it.each(['', 'a b', 'x'.repeat(129), 'ü', '<script>'])('makes a new id for "%s"', async (id) => {
    const answer = await running.raw(
      `GET /live HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-request-id: ${id}\r\n\r\n`,
    );
    expect(answer).toMatch(/x-request-id: [0-9a-f]{8}-[0-9a-f-]{27}\r\n/);
  });

  it('goes on with a good traceparent and begins anew with a bad one', async () => {
    const traceId = '0af7651916cd43dd8448eb211c80319c';
    const trace = async (traceparent: string) => {
      const response = await fetch(`${running.url}/nothing`, { headers: { traceparent } });
      return (await problemIn(response)).trace_id;
    };
    expect(await trace(`00-${traceId}-b7ad6b7169203331-01`)).toBe(traceId);
    for (const bad of [
      `00-${'0'.repeat(32)}-b7ad6b7169203331-01`,
      'x',
      `ff-${traceId}-b7ad6b7169203331-01`,
    ]) {
      expect(await trace(bad)).toMatch(/^(?!0af7651916)[0-9a-f]{32}$/);
    }
  });

  it('puts ids into every record written inside, and into the record of the request', async () => {
    const response = await fetch(`${running.url}/v1/who`, { headers: { 'x-request-id': newId() } });
    const requestId = response.headers.get('x-request-id');
    const mine = (record: Record<string, unknown>) => record.request_id === requestId;
    await waitFor(
      () => running.record('http.request', mine),
      (found) => found !== undefined,
    );
    const ids = {
      request_id: requestId,
      tenant_id: 'acme',
      session_id: 's1',
      trace_id: expect.stringMatching(/^[0-9a-f]{32}$/),
    };
    expect(running.record('inside', mine)).toMatchObject(ids);
    expect(running.record('http.request', mine)).toMatchObject({
      ...ids,
      method: 'GET',
      path: '/v1/who',
      status: 200,
    });
  });

  it('records one server span a request under the caller, none for probes', async () => {
    await using collector = await startSpanCollector();
    await using traced = await startServer({ routes: sampleRoutes, otlpEndpoint: collector.url });
    const traceId = '1af7651916cd43dd8448eb211c80319c';
    const headers = { traceparent: `00-${traceId}-b7ad6b7169203331-01` };
    await fetch(`${traced.url}/live`, { headers });
    await fetch(`${traced.url}/v1/away`, { headers });
    await fetch(`${traced.url}/v1/things/7`, { headers });
    const spans = await collector.untilTrace(traceId, (found) => found.length >= 2);
    expect(spans.map((span) => [span.name, span.kind, span.parentSpanId, span.status]).sort()).toEqual([
      ['GET /v1/away', 2, 'b7ad6b7169203331', 2],
      ['GET /v1/things/:id', 2, 'b7ad6b7169203331', 0],
    ]);
    expect(spans.find((span) => span.status === 2)?.attributes).toMatchObject({
      'http.response.status_code': 503,
      'signalbox.error_code': 'DATABASE_UNAVAILABLE',
    });
  });
});

describe('metrics', () => {
  it('count by route pattern, known method and status', async () => {
    await fetch(`${running.url}/v1/things/123`);
    await fetch(`${running.url}/not/${newId()}`);
    const text = await waitFor(
      async () => (await fetch(`${running.url}/metrics`)).text(),
      (all) => all.includes('route="/v1/things/:id"') && all.includes('route="unmatched"'),
    );
    expect(text).toMatch(/http_request_duration_seconds_count\{[^}]*service="under-test"[^}]*\} \d+/);
    expect(text).toMatch(/method="GET"/);
    expect(text).toMatch(/status="404"/);
    expect(text).not.toContain('/v1/things/123');
  });
});
