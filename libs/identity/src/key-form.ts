import { createHash, randomBytes } from 'node:crypto';

/** `sk_<environment>_<lookup id, 12>_<secret, 32 or more>`. */
export interface ApiKey {
  readonly text: string;
  readonly environment: string;
  readonly lookup: string;
}

const keyForm = /^sk_(dev|staging|prod)_([a-z0-9]{12})_([A-Za-z0-9_-]{32,128})$/;
const lookupAlphabet = '0123456789abcdefghijklmnopqrstuvwxyz';

export function parseApiKey(text: string): ApiKey | undefined {
  const [, environment, lookup] = keyForm.exec(text) ?? [];
  if (environment === undefined || lookup === undefined) return undefined;
  return { text, environment, lookup };
}

/** SHA-256 over the whole key: what the database holds. */
export function hashApiKey(text: string): Buffer {
  return createHash('sha256').update(text).digest();
}

/** A new key: 62 bits of lookup id, 192 bits of secret. Its text is shown once and stored nowhere. */
export function newApiKey(environment: 'dev' | 'staging' | 'prod'): ApiKey {
  let lookup = '';
  while (lookup.length < 12) {
    for (const byte of randomBytes(24)) {
      // 252 is the largest multiple of 36 in a byte: above it the letters would not be equally likely.
      if (byte < 252 && lookup.length < 12) lookup += lookupAlphabet[byte % 36];
    }
  }
  const text = `sk_${environment}_${lookup}_${randomBytes(24).toString('base64url')}`;
  return { text, environment, lookup };
}
