import { expect, it } from 'vitest';
import { verifyWebhook, webhookHeaders, webhookSecret } from './webhook-signature.ts';

it('signs as Standard Webhooks say', () => {
  // The example of the specification's reference libraries.
  const secret = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw';
  const message = {
    id: 'msg_p5jXN8AQM9LWM0D4loKWxJek',
    timestamp: 1614265330,
    body: '{"test": 2432232314}',
  };
  expect(webhookHeaders(secret, message)).toEqual({
    'webhook-id': 'msg_p5jXN8AQM9LWM0D4loKWxJek',
    'webhook-timestamp': '1614265330',
    'webhook-signature': 'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=',
  });
});

const secret = webhookSecret('the secret of this installation', 'acme');
const message = { id: 'one', timestamp: 1_700_000_000, body: '{"a":"ü"}' };
const headers = webhookHeaders(secret, message);
const verify = (changed: Record<string, string | undefined> = {}, body = message.body, now = 1_700_000_001) =>
  verifyWebhook(secret, { ...headers, ...changed }, body, now);

it('gives each tenant a secret of its own, the same each time', () => {
  expect(secret).toMatch(/^whsec_[A-Za-z0-9+/]{43}=$/);
  expect(webhookSecret('the secret of this installation', 'acme')).toBe(secret);
  expect(webhookSecret('the secret of this installation', 'globex')).not.toBe(secret);
  expect(webhookSecret('another one', 'acme')).not.toBe(secret);
});

it('takes what was signed, and nothing that was changed or kept', () => {
  expect(verify()).toBe('ok');
  expect(verify({ 'webhook-signature': `v1,AAAA ${headers['webhook-signature']}` })).toBe('ok');
  expect(verify({}, '{"a":"u"}')).toBe('signature');
  expect(verify({ 'webhook-id': 'two' })).toBe('signature');
  expect(verify({ 'webhook-timestamp': '1700000002' })).toBe('signature');
  expect(verify({ 'webhook-signature': 'v1,' })).toBe('signature');
  expect(verify({ 'webhook-signature': headers['webhook-signature']?.replace('v1', 'v2') })).toBe(
    'signature',
  );
  expect(verify({}, message.body, 1_700_000_301)).toBe('timestamp');
  expect(verify({}, message.body, 1_699_999_699)).toBe('timestamp');
  expect(verify({ 'webhook-timestamp': '-1' })).toBe('headers');
  expect(verify({ 'webhook-signature': undefined })).toBe('headers');
});
