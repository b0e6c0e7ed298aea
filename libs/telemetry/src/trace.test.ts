import { fault } from '@signalbox/faults/fault';
import { afterEach, describe, expect, test } from 'vitest';
import { startCollector } from '../test/collector.ts';
import { startTelemetry, type Telemetry, type TelemetryOptions } from './telemetry.ts';
import {
  contextFromHeaders,
  currentTraceparent,
  formatTraceparent,
  inSpan,
  parseTraceparent,
  startSpan,
  traceparentOf,
  withoutTrace,
  withSpan,
} from './trace.ts';

const running: { telemetry: Telemetry; close(): Promise<void> }[] = [];

async function start(options: Partial<TelemetryOptions> = {}, answer?: Parameters<typeof startCollector>[0]) {
  const collector = await startCollector(answer);
  const lines: Record<string, unknown>[] = [];
  const telemetry = startTelemetry({
    service: 'gateway',
    version: '1.0.0',
    environment: 'dev',
    instanceId: 'instance-1',
    tracing: true,
    metrics: true,
    otlpEndpoint: collector.url,
    logLevel: 'INFO',
    logFormat: 'json',
    logDestination: { write: (line) => void lines.push(JSON.parse(line)) },
    ...options,
  });
  running.push({ telemetry, close: collector.close });
  return { telemetry, collector, lines };
}

afterEach(async () => {
  for (const { telemetry, close } of running.splice(0)) {
    await telemetry.shutdown();
    await close();
  }
});

describe('spans', () => {
  test('reach an OTLP/HTTP collector, with their parents and what they say', async () => {
    const { telemetry, collector } = await start();
    await withSpan(
      'accept',
      { kind: 'server', attributes: { 'signalbox.event_id': 'e1' } },
      async () => await withSpan('store', {}, async () => undefined),
    );
    await telemetry.shutdown();

    const [accept, store] = ['accept', 'store'].map((name) =>
      collector.spans.find((span) => span.name === name),
    );
    expect(accept).toMatchObject({
      kind: 2,
      attributes: { 'signalbox.event_id': 'e1' },
      resource: {
        'service.name': 'gateway',
        'service.version': '1.0.0',
        'service.instance.id': 'instance-1',
      },
    });
    expect(store).toMatchObject({ traceId: accept?.traceId, parentSpanId: accept?.spanId });
  });

  test('leave by themselves, without a shutdown', async () => {
    const { collector } = await start();
    await withSpan('alone', {}, () => undefined);
    await expect.poll(() => collector.spans.length, { timeout: 5_000 }).toBe(1);
  });

  test('keep the error that ended them, which goes on to the caller', async () => {
    const { telemetry, collector } = await start();
    const failing = withSpan('store', {}, () =>
      Promise.reject(fault('DATABASE_UNAVAILABLE', 'no connection')),
    );
    await expect(failing).rejects.toMatchObject({ code: 'DATABASE_UNAVAILABLE' });
    await telemetry.shutdown();
    expect(collector.spans[0]).toMatchObject({
      status: { code: 2, message: 'no connection' },
      attributes: { 'signalbox.error_code': 'DATABASE_UNAVAILABLE' },
    });
  });

  test('continue the trace of a record, and link another', async () => {
    const { telemetry, collector } = await start();
    const parent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';
    const other = parseTraceparent('00-1af7651916cd43dd8448eb211c80319c-c7ad6b7169203331-01');
    await withSpan('request', {}, () =>
      withSpan('send', { parent, links: other === undefined ? [] : [other] }, () => undefined),
    );
    await telemetry.shutdown();
    const send = collector.spans.find((span) => span.name === 'send');
    expect(send).toMatchObject({
      traceId: '0af7651916cd43dd8448eb211c80319c',
      parentSpanId: 'b7ad6b7169203331',
      links: [{ traceId: '1af7651916cd43dd8448eb211c80319c', spanId: 'c7ad6b7169203331' }],
    });
  });

  test('follow the decision of the trace they continue', async () => {
    const { telemetry, collector } = await start();
    await withSpan(
      'unsampled',
      { parent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00' },
      () => undefined,
    );
    await telemetry.shutdown();
    expect(collector.spans).toEqual([]);
  });

  test('are active inside, and not where they were only started', async () => {
    await start();
    const span = startSpan('turn');
    expect(currentTraceparent()).toBeUndefined();
    expect(inSpan(span, currentTraceparent)).toBe(traceparentOf(span));
    expect(inSpan(span, () => withoutTrace(currentTraceparent))).toBeUndefined();
    await inSpan(span, () =>
      withSpan('new', { root: true }, (root) => {
        expect(root.spanContext().traceId).not.toBe(span.spanContext().traceId);
      }),
    );
    span.end();
  });

  test('are not sent when tracing is off, and ids are still passed on', async () => {
    const { telemetry, collector } = await start({ tracing: false });
    const parent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';
    await withSpan('request', { parent }, () => {
      expect(currentTraceparent()).toMatch(/^00-0af7651916cd43dd8448eb211c80319c-[0-9a-f]{16}-00$/);
    });
    await withSpan('request', {}, () => expect(currentTraceparent()).toMatch(/-00$/));
    await telemetry.shutdown();
    expect(collector.spans).toEqual([]);
  });
});

describe('a collector that is away', () => {
  test('costs the caller nothing, and the stop a bound', async () => {
    // It takes the connection and never answers: the worst of the ways to be away.
    const { telemetry } = await start({}, () => undefined);
    const at = performance.now();
    for (let i = 0; i < 2_000; i += 1) await withSpan('turn', {}, () => undefined);
    expect(performance.now() - at).toBeLessThan(1_000);
    const stopAt = performance.now();
    await telemetry.shutdown();
    expect(performance.now() - stopAt).toBeLessThan(4_000);
  });

  test('is complained about once, not with every batch', async () => {
    const { telemetry, collector, lines } = await start({}, (_, response) => {
      response.statusCode = 400;
      response.end();
    });
    const complaints = () => lines.filter((line) => line.event === 'telemetry.export_failed');
    await withSpan('one', {}, () => undefined);
    await expect.poll(() => complaints().length, { timeout: 5_000 }).toBe(1);
    await withSpan('two', {}, () => undefined);
    await telemetry.shutdown();
    expect(collector.spans).toHaveLength(2);
    expect(complaints()).toHaveLength(1);
  });
});

describe('traceparent', () => {
  const good = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';

  test('is read and written', () => {
    const parsed = parseTraceparent(good);
    expect(parsed).toMatchObject({ traceId: '0af7651916cd43dd8448eb211c80319c', isRemote: true });
    expect(parsed && formatTraceparent(parsed)).toBe(good);
    expect(parseTraceparent(`01${good.slice(2)}-later`)).toMatchObject({ spanId: 'b7ad6b7169203331' });
  });

  test.each([
    undefined,
    '',
    'x',
    good.toUpperCase(),
    good.slice(0, -1),
    `${good}-more`,
    `ff${good.slice(2)}`,
    '00-00000000000000000000000000000000-b7ad6b7169203331-01',
    '00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01',
    `${good}${' '.repeat(300)}`,
  ])('%j is none', (text) => {
    expect(parseTraceparent(text)).toBeUndefined();
  });

  test('is found in headers of HTTP and of records', () => {
    expect(contextFromHeaders({ traceparent: good, tracestate: 'a=1' })?.traceState?.get('a')).toBe('1');
    expect(contextFromHeaders({ traceparent: Buffer.from(good) })).toMatchObject({
      spanId: 'b7ad6b7169203331',
    });
    expect(contextFromHeaders({ traceparent: [good, good] })).toBeUndefined();
    expect(contextFromHeaders({})).toBeUndefined();
  });
});
