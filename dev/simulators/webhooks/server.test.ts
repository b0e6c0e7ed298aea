import { webhookHeaders, webhookSecret } from '@signalbox/http-client/webhook-signature';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { startWebhookReceiver, type WebhookReceiver } from './server.ts';

const signingSecret = 'the secret of this test';
let receiver: WebhookReceiver;
beforeAll(async () => {
  receiver = await startWebhookReceiver({ signingSecret });
});
afterEach(() => receiver.setFaults([]));
afterAll(() => receiver.close());

function call(id: string, { tenant = 'acme', as = 'acme', ago = 0, body = '{"type":"task.updated"}' } = {}) {
  const timestamp = Math.floor(Date.now() / 1_000) - ago;
  return fetch(`${receiver.url}/hooks/${tenant}`, {
    method: 'POST',
    body,
    redirect: 'manual',
    headers: webhookHeaders(webhookSecret(signingSecret, as), { id, timestamp, body }),
  });
}

test('takes what was signed for its tenant and now, and knows it again', async () => {
  expect((await call('a')).status).toBe(204);
  expect((await call('a')).status).toBe(204);
  expect((await call('b', { as: 'globex' })).status).toBe(401);
  expect((await call('c', { ago: 600 })).status).toBe(401);
  expect(receiver.calls.map(({ webhook_id: id, verdict, repeat }) => [id, verdict, repeat])).toEqual([
    ['a', 'ok', false],
    ['a', 'ok', true],
    ['b', 'signature', false],
    ['c', 'timestamp', false],
  ]);
  const shown = await (await fetch(`${receiver.url}/`)).text();
  expect(shown).toContain('acme  ok  repeat  answered 204');
});

test('does what it is told to do wrong, so often', async () => {
  const order = [
    { times: 1, status: 503, retryAfterSeconds: 2 },
    { times: 1, lostAnswer: true },
  ];
  const put = await fetch(`${receiver.url}/admin/faults`, { method: 'PUT', body: JSON.stringify(order) });
  expect(put.status).toBe(200);
  const first = await call('d');
  expect([first.status, first.headers.get('retry-after')]).toEqual([503, '2']);
  await expect(call('d')).rejects.toThrow();
  expect((await call('d')).status).toBe(204);
  expect(receiver.calls.slice(-3).map(({ repeat }) => repeat)).toEqual([false, false, true]);
  const wrong = await fetch(`${receiver.url}/admin/faults`, { method: 'PUT', body: '{"no":1}' });
  expect(wrong.status).toBe(422);
});
