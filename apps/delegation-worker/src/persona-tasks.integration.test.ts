import { readValue } from '@signalbox/contracts/validate';
import type { SpawnedService } from '@signalbox/testkit/service';
import { startSpanCollector } from '@signalbox/testkit/span-collector';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Harness, startHarness } from '../test/delegation-harness.ts';

const collector = await startSpanCollector();
let harness: Harness;
let service: SpawnedService;

beforeAll(async () => {
  harness = await startHarness();
  service = await harness.start({ OTEL_EXPORTER_OTLP_ENDPOINT: collector.url });
});
afterAll(async () => {
  await service?.[Symbol.asyncDispose]();
  await harness?.close();
  await collector.close();
});

const ask = (more: object = {}) =>
  harness.submit({ persona: 'helper', input: { message: 'what is six times seven?' }, depth: 1, ...more });

/** The cancel of a task's turn. */
const cancelOf = (id: string) =>
  waitFor(
    () =>
      harness
        .inbound(id)
        .flatMap(({ eventType, value }) =>
          eventType === 'session.action'
            ? (readValue('conversation.inbound', 'session.action', value) ?? [])
            : [],
        ),
    (found) => found.length > 0,
    { label: `the cancel of the turn of ${id}` },
  ).then(([first]) => first);

test('a task of a persona is a turn of a session of its own, and its answer is the result, in one trace', async () => {
  const traceId = 'de1e9a7e'.padEnd(32, '1');
  const id = await ask({ traceparent: `00-${traceId}-${'b'.repeat(16)}-01`, replyTo: 'conversation-worker' });
  const posted = await harness.posted(id);
  expect(posted).toMatchObject({
    persona_id: 'helper',
    message: 'what is six times seven?',
    delegation: { task_id: id, depth: 1 },
  });
  const [record] = harness.inbound(id);
  expect(record?.key).toBe(`acme:${posted.session_id}`);
  expect(record?.headers).toMatchObject({
    reply_to: 'delegation-worker',
    correlation_id: id,
    session_id: posted.session_id,
    event_id: posted.event_id,
    trace_id: traceId,
  });
  await harness.turnEnded(posted, {
    text: 'forty-two',
    model: 'm',
    usage: { input_tokens: 3, output_tokens: 1 },
  });
  expect((await harness.reaches(id, 'completed')).result).toMatchObject({
    text: 'forty-two',
    session_id: posted.session_id,
    turn_id: posted.turn_id,
    usage: { input_tokens: 3, output_tokens: 1 },
  });
  expect(harness.statuses(id)).toEqual(['running', 'completed']);
  for (const update of harness.recordsOf('delegation.updates').filter(({ keyId }) => keyId === id)) {
    expect(update.headers.trace_id).toBe(traceId);
  }
  const span = await collector.find(({ name, traceId: of }) => name === 'task helper' && of === traceId);
  expect(span.attributes).toMatchObject({ 'task.id': id });
  expect(await service.metric('delegation_wait_seconds_count', { kind: 'turn' })).toBe(1);
});

test('the end of a turn counts once: what comes again or later changes nothing and is kept apart', async () => {
  const id = await ask();
  const posted = await harness.posted(id);
  await harness.turnEnded(posted, { text: 'first' });
  await harness.turnEnded(posted, { text: 'first' });
  await harness.turnEnded(posted, { text: 'second', outcome: 'error' });
  expect((await harness.reaches(id, 'completed')).result).toMatchObject({ text: 'first' });
  for (const verdict of ['repeat', 'late']) {
    await service.log('task.result_not_applied', (log) => log.task_id === id && log.verdict === verdict);
  }
  expect(harness.statuses(id)).toEqual(['running', 'completed']);
  const [step] = await harness.database.query<{ outcome: object; late_outcome: object }>(
    'SELECT outcome, late_outcome FROM delegation_worker.steps WHERE task_id = $1',
    [id],
  );
  expect(step?.outcome).toMatchObject({ text: 'first' });
  expect(step?.late_outcome).toMatchObject({ text: 'second' });
});

test.each([
  [
    { outcome: 'error', text: '', error_code: 'MODEL_UNAVAILABLE', message: 'no model' },
    'failed',
    'MODEL_UNAVAILABLE',
  ],
  [{ outcome: 'rejected', text: '' }, 'failed', 'CONFLICT'],
  [{ outcome: 'cancelled', text: 'half of' }, 'cancelled', 'CANCELLED'],
] as const)('a turn that ended with %o makes the task %s', async (ended, status, code) => {
  const id = await ask();
  await harness.turnEnded(await harness.posted(id), ended);
  expect((await harness.reaches(id, status)).error?.error_code).toBe(code);
});

test('the end of a stranger’s turn, or one asked for by another service, ends nothing', async () => {
  const id = await ask();
  const posted = await harness.posted(id);
  await harness.turnEnded(posted, { text: 'of another' }, { reply_to: 'gateway' });
  await harness.turnEnded({ ...posted, turn_id: posted.session_id }, { text: 'of another turn' });
  await service.log('task.result_not_applied', (log) => log.task_id === id && log.verdict === 'unknown');
  await harness.turnEnded(posted, { text: 'mine' });
  expect((await harness.reaches(id, 'completed')).result).toMatchObject({ text: 'mine' });
});

describe('a turn that nobody waits for any more is ended', () => {
  test('when its task is cancelled', async () => {
    const id = await ask();
    const posted = await harness.posted(id);
    await harness.cancel(id);
    expect(await cancelOf(id)).toMatchObject({
      action: 'cancel',
      session_id: posted.session_id,
      turn_id: posted.turn_id,
    });
    await harness.reaches(id, 'cancelled');
    await harness.turnEnded(posted, { outcome: 'cancelled', text: '' });
    await service.log('task.result_not_applied', (log) => log.task_id === id && log.verdict === 'late');
    expect(harness.statuses(id)).toEqual(['running', 'cancelled']);
  });

  test('when its end never comes and the task expires', async () => {
    const id = await ask({ deadlineMs: 700 });
    const posted = await harness.posted(id);
    expect(await cancelOf(id)).toMatchObject({ turn_id: posted.turn_id, reason: 'its task expired' });
    await harness.reaches(id, 'expired');
  });

  test('when the task above its own is cancelled', async () => {
    const id = await harness.submit({
      handler: 'sequence',
      input: { tasks: [{ target: { persona_id: 'helper' }, input: { message: 'go on' } }] },
    });
    const child = await waitFor(
      () =>
        harness
          .recordsOf('conversation.inbound')
          .map(({ value }) => readValue('conversation.inbound', 'message.posted', value))
          .find((posted) => posted?.message === 'go on'),
      (found) => found !== undefined,
    );
    expect(child?.delegation?.depth).toBe(1);
    await harness.cancel(id);
    expect((await cancelOf(child?.delegation?.task_id ?? ''))?.turn_id).toBe(child?.turn_id);
  });
});
