import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { SpawnedService } from '@signalbox/testkit/service';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { type Harness, startHarness } from '../test/delegation-harness.ts';
import { startReceiver } from '../test/webhook-receiver.ts';

let harness: Harness;
let service: SpawnedService;
let receiver: Awaited<ReturnType<typeof startReceiver>>;

beforeAll(async () => {
  harness = await startHarness();
  receiver = await startReceiver(harness.env.WEBHOOK_SIGNING_SECRET);
  service = await harness.start({ WEBHOOK_TIMEOUT_MS: '1000' });
});
afterEach(() => receiver.fail());
afterAll(async () => {
  await service?.[Symbol.asyncDispose]();
  await receiver?.stop();
  await harness?.close();
});

const told = (id: string) =>
  waitFor(
    () => harness.webhookUpdates(id),
    (found) => found.length > 0,
    { label: `webhook.updated of ${id}` },
  ).then(([first]) => first);
const submit = (more: object = {}) =>
  harness.submit({ input: { a: 'ü' }, callback_url: receiver.hook, metadata: { mine: 1 }, ...more });

test('the end of a task is told to its callback_url, signed, in its trace, and that is told too', async () => {
  const traceId = 'cafe'.padEnd(32, '2');
  const id = await submit({ traceparent: `00-${traceId}-${'a'.repeat(16)}-01` });
  const [call, ...more] = await receiver.received(id);
  expect(more).toEqual([]);
  expect(call).toMatchObject({ verdict: 'ok', repeat: false, status: 204 });
  const completed = await harness.reaches(id, 'completed');
  expect(call?.body).toEqual({
    type: 'task.updated',
    timestamp: completed.updated_at,
    data: { ...completed, metadata: { mine: 1 } },
  });
  expect(call?.traceparent?.slice(3, 35)).toBe(traceId);
  expect(await told(id)).toMatchObject({ status: 'delivered', attempts: 1, webhook_id: call?.webhook_id });
  const [record] = harness
    .recordsOf('delegation.updates')
    .filter(({ keyId, eventType }) => keyId === id && eventType === 'webhook.updated');
  expect(record?.headers.reply_to).toBe('delegation-gateway');
});

test('input_required comes first, and a receiver that fails holds back only what is behind it', async () => {
  await receiver.fail({ match: 'input_required', times: 1, status: 500 });
  const id = await submit({ handler: 'ask', input: { prompt: 'which?' } });
  await harness.reaches(id, 'input_required');
  await harness.input(id, { text: 'this' });
  await harness.reaches(id, 'completed');
  const calls = await receiver.received(id, 3);
  expect(calls.map(({ body, status }) => [body.data.status, status])).toEqual([
    ['input_required', 500],
    ['input_required', 204],
    ['completed', 204],
  ]);
});

test('what was not taken comes again with its id and a new timestamp, not before Retry-After', async () => {
  await receiver.fail({ times: 1, status: 429, retryAfterSeconds: 1 });
  const id = await submit();
  const [first, second] = await receiver.received(id, 2);
  expect(second).toMatchObject({ webhook_id: first?.webhook_id, verdict: 'ok', body: first?.body });
  expect(Date.parse(second?.at ?? '') - Date.parse(first?.at ?? '')).toBeGreaterThanOrEqual(950);
  expect(await told(id)).toMatchObject({ status: 'delivered', attempts: 2 });
});

test('an answer that is lost, or does not come in time, means another call that the receiver knows by its id', async () => {
  await receiver.fail({ times: 1, lostAnswer: true }, { times: 1, hang: true });
  const id = await submit();
  const calls = await receiver.received(id, 3);
  expect(new Set(calls.map(({ webhook_id }) => webhook_id)).size).toBe(1);
  expect(calls.map(({ repeat, status }) => [repeat, status])).toEqual([
    [false, 0],
    [true, 0],
    [true, 204],
  ]);
});

describe('is not tried again and fails visibly', () => {
  const failed = async (id: string) => {
    const { webhook_id: webhookId, ...update } = (await told(id)) ?? {};
    const note = await waitFor(
      () =>
        harness
          .recordsOf('ui.notifications')
          .map(({ value }) => JSON.parse(JSON.stringify(value)))
          .find(({ data }) => data.webhook_id === webhookId),
      (found) => found !== undefined,
      { label: 'the notification' },
    );
    expect(note).toMatchObject({ kind: 'webhook.failed', level: 'error', data: { task_id: id } });
    await service.log('webhook.failed', ({ task_id }) => task_id === id);
    return { ...update, webhookId };
  };

  test('after 410, and can be queued again', async () => {
    await receiver.fail({ status: 410 });
    const id = await submit();
    const { webhookId, ...update } = await failed(id);
    expect(update).toMatchObject({
      status: 'failed',
      attempts: 1,
      last_error: expect.stringContaining('WEBHOOK_GONE'),
    });
    expect(await receiver.calls(id)).toHaveLength(1);
    expect(await service.metric('webhook_calls_total', { outcome: 'failed' })).toBeGreaterThan(0);

    await receiver.fail();
    const requeue = 'SELECT * FROM delegation_webhooks.requeue_webhooks($1, $2, NULL)';
    expect(await harness.database.query(requeue, ['globex', id])).toEqual([]);
    expect(await harness.database.query(requeue, ['acme', id])).toEqual([{ requeue_webhooks: webhookId }]);
    const [, again] = await receiver.received(id, 2);
    expect(again).toMatchObject({ webhook_id: webhookId, status: 204 });
    await waitFor(
      () => harness.webhookUpdates(id).map(({ status }) => status),
      (found) => found.includes('delivered'),
    );
    expect(await harness.database.query(requeue, ['acme', id])).toEqual([]);
  });

  test.each([
    ['http://127.0.0.2:9/hook', 'loopback'],
    ['http://2130706434/hook', 'loopback'], // 127.0.0.2
    ['http://localhost:9/hook', 'name'],
    ['http://[::ffff:10.0.0.1]/hook', 'private'],
    ['http://169.254.169.254/latest/meta-data', 'linkLocal'],
    ['gopher://example.com/', 'scheme'],
  ])('when the address is private at the time of the call: %s', async (url, why) => {
    const id = await submit({ callback_url: url });
    expect(await failed(id)).toMatchObject({
      status: 'failed',
      attempts: 1,
      last_error: `ADDRESS_REFUSED: the address may not be called: ${why}`,
    });
  });
});

test('a receiver that says 2xx has taken it, however much it says besides', async () => {
  const talks = createServer((_request, response) => {
    response.writeHead(200).write('x'.repeat(200_000)); // and it never ends
  });
  await new Promise<void>((resolve) => talks.listen(0, '127.0.0.1', resolve));
  const { port } = talks.address() as AddressInfo;
  const id = await submit({ callback_url: `http://127.0.0.1:${port}/hook` });
  expect(await told(id)).toMatchObject({ status: 'delivered', attempts: 1 });
  talks.closeAllConnections();
  talks.close();
});

test('a redirect is not followed, it is a failure that is tried again', async () => {
  await receiver.fail({ times: 1, status: 302, location: `${receiver.url}/hooks/globex` });
  const id = await submit();
  const calls = await receiver.received(id, 2);
  expect(calls.map(({ status }) => status)).toEqual([302, 204]);
  await service.log(
    'work.retried',
    ({ error_message }) => error_message === 'the callback URL answered 302; redirects are not followed',
  );
});

test('a task that is cancelled before it ran, or expires, is told of too', async () => {
  const id = await submit({ handler: 'ask', input: { prompt: 'ever?' }, deadlineMs: 500 });
  const calls = await receiver.received(id, 2);
  expect(calls.map(({ body }) => body.data.status)).toEqual(['input_required', 'expired']);
});

test('a host that is down is left alone for a while, and other hosts are called meanwhile', async () => {
  const down = 'http://127.0.0.1:1/hook';
  await Promise.all(Array.from({ length: 8 }, () => submit({ callback_url: down })));
  await service.log('breaker.opened', ({ breaker, host }) => breaker === 'webhook' && host === '127.0.0.1:1');
  await service.log('work.retried', ({ error_code }) => error_code === 'BREAKER_OPEN', 20_000);
  expect(await service.metric('circuit_breaker_state', { name: 'webhook' })).toBeGreaterThan(0);
  const id = await submit();
  await receiver.received(id);
});
