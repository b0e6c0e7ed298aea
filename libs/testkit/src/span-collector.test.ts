import { gzipSync } from 'node:zlib';
import { afterAll, expect, test } from 'vitest';
import { printTree, startSpanCollector } from './span-collector.ts';

const collector = await startSpanCollector();
afterAll(() => collector.close());

const traceId = 'a'.repeat(32);
const span = (name: string, spanId: string, parentSpanId: string, startMs: number) => ({
  traceId,
  spanId,
  parentSpanId,
  name,
  kind: 2,
  startTimeUnixNano: String(BigInt(startMs) * 1_000_000n),
  endTimeUnixNano: String(BigInt(startMs + 5) * 1_000_000n),
  attributes: [
    { key: 'signalbox.turn_id', value: { stringValue: 't1' } },
    { key: 'count', value: { intValue: '7' } },
    { key: 'list', value: { arrayValue: { values: [{ boolValue: true }] } } },
  ],
});

test('spans are kept and stand as a tree', async () => {
  const body = JSON.stringify({
    resourceSpans: [
      {
        resource: { attributes: [{ key: 'service.name', value: { stringValue: 'gateway' } }] },
        scopeSpans: [
          { spans: [span('late', '3', '1', 20), span('root', '1', '', 0), span('early', '2', '1', 10)] },
        ],
      },
    ],
  });
  const response = await fetch(`${collector.url}/v1/traces`, {
    method: 'POST',
    headers: { 'content-encoding': 'gzip' },
    body: new Uint8Array(gzipSync(body)),
  });
  expect(response.status).toBe(200);
  const found = await collector.untilTrace(traceId, (spans) => spans.length === 3);
  expect(found[0]?.attributes).toEqual({ 'signalbox.turn_id': 't1', count: 7, list: [true] });
  expect(printTree(collector.tree(traceId))).toBe(
    'gateway root 5.0 ms\n  gateway early 5.0 ms\n  gateway late 5.0 ms',
  );
  expect((await collector.find((one) => one.name === 'early')).durationMs).toBe(5);
});

test('what is not OTLP is refused and metrics are dropped', async () => {
  expect((await fetch(`${collector.url}/v1/traces`, { method: 'POST', body: '{' })).status).toBe(400);
  expect((await fetch(`${collector.url}/v1/metrics`, { method: 'POST', body: '{}' })).status).toBe(200);
});
