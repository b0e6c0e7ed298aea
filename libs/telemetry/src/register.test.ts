import './register.ts';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startCollector } from '../test/collector.ts';
import { startTelemetry, type Telemetry } from './telemetry.ts';
import { withSpan } from './trace.ts';

interface Sent {
  readonly topic: string;
  readonly messages: { key: string; value: string; headers: Record<string, string> }[];
}
interface KafkaModule {
  Kafka: new (options: {
    brokers: string[];
    logLevel: number;
  }) => { producer(): { sendBatch(batch: { topicMessages: Sent[] }): Promise<unknown> } };
}

// The way @signalbox/messaging loads it: its package owns kafkajs.
const require = createRequire(join(import.meta.dirname, '../../messaging/package.json'));
const driver = ['kafka', 'js'].join('');
const { Kafka }: KafkaModule = require(driver);

let collector: Awaited<ReturnType<typeof startCollector>>;
let telemetry: Telemetry;
beforeAll(async () => {
  collector = await startCollector();
  telemetry = startTelemetry({
    service: 'gateway',
    version: '1',
    environment: 'dev',
    instanceId: 'i',
    tracing: true,
    metrics: true,
    otlpEndpoint: collector.url,
    logLevel: 'CRITICAL',
    logFormat: 'json',
  });
});
afterAll(() => collector.close());

/** Sends to nobody: the instrumentation does its part before the driver finds out that there is no connection. */
async function send(headers: Record<string, string>): Promise<Record<string, string>> {
  const producer = new Kafka({ brokers: ['127.0.0.1:1'], logLevel: 0 }).producer();
  const message = { key: 'k', value: 'v', headers };
  await producer
    .sendBatch({ topicMessages: [{ topic: 'conversation.outbound', messages: [message] }] })
    .catch(() => undefined);
  return message.headers;
}

describe('kafkajs, required after ./register', () => {
  const stored = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';

  test('is instrumented', () => {
    expect(Reflect.has(Kafka.prototype.producer, '__wrapped')).toBe(true);
    expect(Reflect.has(Object(Reflect.get(Kafka.prototype, 'consumer')), '__wrapped')).toBe(true);
  });

  test('keeps the trace that a record carries, whatever is active', async () => {
    expect(await withSpan('relay', {}, () => send({ traceparent: stored }))).toEqual({ traceparent: stored });
    expect(await send({ traceparent: stored })).toEqual({ traceparent: stored });
  });

  test('puts the active trace on a record without one, and makes spans below recorded spans only', async () => {
    expect(await send({})).toEqual({});
    const headers = await withSpan('request', {}, () => send({}));
    await telemetry.shutdown();
    const request = collector.spans.find((span) => span.name === 'request');
    const sent = collector.spans.find((span) => span.parentSpanId === request?.spanId);
    expect(sent).toMatchObject({
      name: 'send conversation.outbound',
      attributes: { 'messaging.system': 'kafka', 'messaging.destination.name': 'conversation.outbound' },
    });
    expect(headers.traceparent).toBe(`00-${sent?.traceId}-${sent?.spanId}-01`);
    // Of four sends two had a recorded span around them: relay, request and one below each.
    expect(collector.spans).toHaveLength(4);
  });
});
