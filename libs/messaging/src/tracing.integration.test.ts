import '@signalbox/telemetry/register';
import { newId } from '@signalbox/contracts/ids';
import { idKey } from '@signalbox/contracts/keys';
import { silentLog } from '@signalbox/telemetry/silent';
import { startTelemetry, type Telemetry } from '@signalbox/telemetry/telemetry';
import { parseTraceparent, traceparentOf, withSpan } from '@signalbox/telemetry/trace';
import {
  type CollectedSpan,
  type SpanCollector,
  startSpanCollector,
} from '@signalbox/testkit/span-collector';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { echo, requests, results } from '../test/questions.ts';
import { inbound, type Process, Stack } from '../test/stack.ts';
import { openAnswerer } from './answerer.ts';
import { openAsker } from './asker.ts';
import { createKafka, fewTries } from './kafka-client.ts';
import type { IntakeHandler } from './messaging.ts';
import type { OutgoingMessage } from './outgoing.ts';

let stack: Stack;
let collector: SpanCollector;
let telemetry: Telemetry;
let process: Process;

beforeAll(async () => {
  collector = await startSpanCollector();
  telemetry = startTelemetry({
    service: 'messaging-test',
    version: '0',
    environment: 'dev',
    instanceId: newId(),
    tracing: true,
    metrics: true,
    otlpEndpoint: collector.url,
    logLevel: 'CRITICAL',
    logFormat: 'json',
  });
  stack = await Stack.create(
    'conversation.inbound',
    'conversation.outbound',
    'tool.results',
    requests,
    results,
  );
  process = stack.process({ metrics: telemetry.metrics });
});
afterAll(async () => {
  await stack?.drop();
  await telemetry?.shutdown();
  await collector?.close();
});

/** The mark that OpenTelemetry's instrumentation leaves on what it wraps. */
const isWrapped = (method: object) => Reflect.get(method, '__wrapped') === true;
const spanOf = (spans: readonly CollectedSpan[], name: string) => spans.find((span) => span.name === name);

describe('the trace over Kafka, with instrumentation-kafkajs registered', () => {
  it('is about a client that is instrumented', () => {
    const { sendBatch } = createKafka(stack.settings(), 'instrumented', silentLog, fewTries).producer({
      createPartitioner: () => () => 0,
    });
    expect(isWrapped(sendBatch)).toBe(true);
  });

  it('goes from the writer through publish and process to what the handler returns, each record in its own', async () => {
    const answerOf: IntakeHandler = async (records) =>
      records.map((record) => ({
        ...inbound(record.sessionId, 'answer'),
        topic: 'tool.results',
        eventType: 'tool.outcome',
        schema: 'tool.results.v1',
        correlationId: record.eventId,
      }));
    process.messaging.consume({
      topic: 'conversation.inbound',
      group: 'traced',
      inbox: 'own-row',
      handler: answerOf,
    });
    const questions = Array.from({ length: 5 }, () => inbound(newId(), 'question'));
    const parents = new Map<string, string>();
    // All five in one commit, and so in one sendBatch: whatever is active then belongs to none of them.
    await process.database.transaction(async (tx) => {
      const traced: OutgoingMessage[] = [];
      for (const question of questions) {
        await withSpan('request', { root: true }, async (span) => {
          parents.set(question.eventId, traceparentOf(span) ?? '');
          traced.push({ ...question, traceparent: traceparentOf(span) });
        });
      }
      await withSpan('somebody else', { root: true }, () => process.messaging.outbox.put(tx, traced));
    });
    // At least five: a send that was repeated is a repeat in the log, and this handler has no inbox.
    const answers = await waitFor(
      () => stack.read('tool.results'),
      (got) => new Set(got.map(({ headers }) => headers.correlation_id)).size === 5,
      { label: 'five answers' },
    );
    const sent = await stack.read('conversation.inbound');
    for (const question of questions) {
      const parent = parseTraceparent(parents.get(question.eventId));
      const traceId = parent?.traceId ?? '';
      const spans = await collector.untilTrace(traceId, (got) => got.length >= 4);
      const publish = spanOf(spans, 'publish conversation.inbound');
      const process = spanOf(spans, 'process conversation.inbound');
      const answer = spanOf(spans, 'publish tool.results');
      expect(publish?.parentSpanId).toBe(parent?.spanId);
      expect(publish?.attributes['signalbox.event_id']).toBe(question.eventId);
      expect(process?.parentSpanId).toBe(publish?.spanId);
      expect(process?.attributes['signalbox.event_id']).toBe(question.eventId);
      expect(answer?.parentSpanId).toBe(process?.spanId);
      const record = sent.find(({ headers }) => headers.event_id === question.eventId);
      expect(record?.headers.traceparent).toBe(`00-${traceId}-${publish?.spanId}-01`);
      expect(record?.headers.trace_id).toBe(traceId);
      expect(record?.headers.span_id).toBe(publish?.spanId);
      expect(
        answers.some(
          ({ headers }) => headers.correlation_id === question.eventId && headers.trace_id === traceId,
        ),
      ).toBe(true);
    }
  });

  it('leaves the three headers of a delta alone and makes no span for it', async () => {
    const session = newId();
    const traceparent = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01';
    const seen: string[] = [];
    process.messaging.consumeRaw({
      topic: 'conversation.outbound',
      group: 'traced',
      handler: async (records) => void seen.push(...records.map(({ traceparent: at }) => at ?? '')),
    });
    await withSpan('a turn', { root: true }, () =>
      process.messaging.producer.direct({
        topic: 'conversation.outbound',
        key: `acme:${session}`,
        headers: { traceparent, event_type: 'assistant.delta', schema: 'conversation.outbound.v1' },
        value: { turn_id: newId(), attempt: 1, at: 0, text: 'x' },
      }),
    );
    await waitFor(
      () => seen,
      (got) => got.length === 1,
    );
    expect(seen).toEqual([traceparent]);
    const record = (await stack.read('conversation.outbound')).find(({ key }) => key === `acme:${session}`);
    expect(record?.headers).toEqual({
      traceparent,
      event_type: 'assistant.delta',
      schema: 'conversation.outbound.v1',
    });
    await collector.find((span) => span.name === 'a turn');
    expect(collector.spans.filter((span) => span.name.includes('conversation.outbound'))).toEqual([]);
  });

  it('goes on over a question and its answer: both hops are one trace', async () => {
    const { messaging, log } = process;
    const { metrics } = telemetry;
    openAnswerer({
      ...{ messaging, service: 'answers', requests, results, log, metrics },
      answers: { 'memory.recall_requested': async ({ value }) => echo(value.query) },
    });
    const asker = openAsker({ messaging, service: 'asks', requests, results, log, metrics });
    let traceId: string | undefined;
    await withSpan('a turn asks', { root: true }, async (span) => {
      traceId = span.spanContext().traceId;
      await asker.ask({
        ...{ tenant: 'acme', key: idKey('acme', newId()), eventType: 'memory.recall_requested' },
        ...{ schema: 'memory.recall.requests.v1', value: { query: 'x', limit: 1 }, deadlineMs: 30_000 },
      });
    });
    const spans = await collector.untilTrace(traceId ?? '', (got) => got.length === 7);
    const byId = new Map(spans.map((span) => [span.spanId, span]));
    const path: string[] = [];
    let at = spanOf(spans, `process ${results}`);
    for (; at !== undefined; at = byId.get(at.parentSpanId ?? '')) path.unshift(at.name);
    expect(path).toEqual([
      'a turn asks',
      `ask ${requests}`,
      `publish ${requests}`,
      `process ${requests}`,
      `answer ${requests}`,
      `publish ${results}`,
      `process ${results}`,
    ]);
  });

  it('has no span of the library itself: no poll, no send, no trace of their own', () => {
    expect([...new Set(collector.spans.map(({ name }) => name))].sort()).toEqual([
      'a turn',
      'a turn asks',
      `answer ${requests}`,
      `ask ${requests}`,
      'process conversation.inbound',
      `process ${requests}`,
      `process ${results}`,
      'publish conversation.inbound',
      `publish ${requests}`,
      `publish ${results}`,
      'publish tool.results',
      'request',
      'somebody else',
    ]);
  });

  it('counts what it published', async () => {
    const text = await telemetry.metricsText();
    for (const name of [
      'durable_publish_total',
      'outbox_publish_seconds',
      'consumer_process_seconds',
      'consumer_lag',
      'consumer_last_fetch_age_seconds',
    ]) {
      expect(text).toContain(name);
    }
    expect(text).toMatch(/durable_publish_total\{[^}]*path="fast"[^}]*\} 1\d/);
  });
});
