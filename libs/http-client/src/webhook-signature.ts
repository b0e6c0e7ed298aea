import { createHmac, hkdfSync, timingSafeEqual } from 'node:crypto';

const prefix = 'whsec_';

/**
 * The secret that a tenant's webhooks are signed with, as its receivers get it: `whsec_` and 32 bytes in base64 (Standard
 * Webhooks). Derived by HKDF-SHA256 (RFC 5869) from the one secret of the installation, so none is stored, and no tenant can
 * sign for another.
 */
export function webhookSecret(signingSecret: string, tenant: string): string {
  const bytes = hkdfSync('sha256', signingSecret, '', `signalbox webhook ${tenant}`, 32);
  return `${prefix}${Buffer.from(bytes).toString('base64')}`;
}

export interface WebhookMessage {
  /** The same at every try: what a receiver knows a repeat by. */
  readonly id: string;
  /** Unix seconds of this try. */
  readonly timestamp: number;
  readonly body: string;
}

/** The headers of one try (Standard Webhooks, version 1: HMAC-SHA256 over `id.timestamp.body`). */
export function webhookHeaders(secret: string, message: WebhookMessage): Record<string, string> {
  return {
    'webhook-id': message.id,
    'webhook-timestamp': String(message.timestamp),
    'webhook-signature': `v1,${signatureOf(secret, message).toString('base64')}`,
  };
}

/** Seconds that a timestamp may be off: a call that somebody has kept is no longer taken after that. */
export const webhookToleranceSeconds = 300;

/**
 * What a receiver does: whether the headers belong to the body and are of now. One good signature among several is enough, so that
 * secrets can be changed over time.
 */
export function verifyWebhook(
  secret: string,
  headers: Readonly<Record<string, string | undefined>>,
  body: string,
  nowSeconds: number = Date.now() / 1_000,
): 'ok' | 'headers' | 'timestamp' | 'signature' {
  const { 'webhook-id': id, 'webhook-timestamp': time, 'webhook-signature': signatures } = headers;
  if (id === undefined || signatures === undefined || time === undefined || !/^\d{1,12}$/.test(time))
    return 'headers';
  const timestamp = Number(time);
  if (Math.abs(nowSeconds - timestamp) > webhookToleranceSeconds) return 'timestamp';
  const wanted = signatureOf(secret, { id, timestamp, body });
  const good = signatures.split(' ').some((each) => {
    const [version, text = ''] = each.split(',');
    const given = Buffer.from(text, 'base64');
    return version === 'v1' && given.length === wanted.length && timingSafeEqual(given, wanted);
  });
  return good ? 'ok' : 'signature';
}

function signatureOf(secret: string, { id, timestamp, body }: WebhookMessage): Buffer {
  const key = Buffer.from(secret.startsWith(prefix) ? secret.slice(prefix.length) : secret, 'base64');
  return createHmac('sha256', key).update(`${id}.${timestamp}.${body}`, 'utf8').digest();
}
