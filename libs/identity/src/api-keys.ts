import { timingSafeEqual } from 'node:crypto';
import { type Fault, fault } from '@signalbox/faults/fault';
import type { Queryable } from '@signalbox/postgres/database';
import { BoundedCache } from './bounded-cache.ts';
import { type ApiKey, hashApiKey, parseApiKey } from './key-form.ts';

export { hashApiKey, newApiKey, parseApiKey } from './key-form.ts';

/** Who is asking: from the credential and nothing else. */
export interface Identity {
  readonly tenant: string;
  readonly keyId: string;
  readonly scopes: readonly string[];
}

/** Why a credential was refused; `details.reason` of the fault, for the log and `auth_refused_total{reason}`. */
export type RefusalReason =
  | 'missing'
  | 'ambiguous'
  | 'malformed'
  | 'jwt'
  | 'environment'
  | 'unknown'
  | 'revoked'
  | 'expired'
  | 'disabled';

export interface ApiKeysOptions {
  readonly database: Queryable;
  /** Keys of another environment are refused: so are the seeded `sk_dev_…` ones in prod. */
  readonly environment: string;
  /** API_KEY_HEADER; `X-API-Key` unless given. */
  readonly header?: string;
  /** How long a good key is believed without asking (5 000): the longest a revoked key goes on working. */
  readonly keepGoodMs?: number;
  /** The same for a refused one (1 000). */
  readonly keepRefusedMs?: number;
  readonly maxCached?: number;
  readonly now?: () => number;
}

export type RequestHeaders = Readonly<Record<string, string | readonly string[] | undefined>>;

export interface ApiKeys {
  /**
   * The identity behind `X-API-Key: sk_…` or `Authorization: Bearer sk_…`. Faults: UNAUTHENTICATED with details.reason
   * (the message is the same for all that concern a key, so nothing is learned from it), DATABASE_UNAVAILABLE.
   */
  authenticate(headers: RequestHeaders): Promise<Identity>;
}

interface FoundKey {
  tenant: string;
  key_id: string;
  key_hash: Buffer;
  scopes: string[];
  state: 'good' | 'revoked' | 'expired' | 'disabled';
}

/** Compared against when there is no such key, so that finding out takes the same steps. No key hashes to it. */
const nobodysHash = Buffer.alloc(32);
const findKey = { name: 'identity_find_key', text: 'SELECT * FROM identity.find_key($1)' };

function refused(reason: RefusalReason): Fault {
  const message = {
    missing: 'an API key is needed: X-API-Key, or Authorization: Bearer',
    ambiguous: 'X-API-Key and Authorization name different credentials',
  }[reason as string];
  return fault('UNAUTHENTICATED', message ?? 'the credential is not accepted', { details: { reason } });
}

function single(value: string | readonly string[] | undefined): string | undefined {
  if (typeof value === 'string' || value === undefined) return value;
  if (value.length > 1) throw refused('ambiguous');
  return value[0];
}

/** The credential of a request as text. Both headers may be given if they say the same. */
export function credentialOf(headers: RequestHeaders, header = 'x-api-key'): string {
  const direct = single(headers[header.toLowerCase()])?.trim();
  const authorization = single(headers.authorization)?.trim();
  const bearer = authorization === undefined ? undefined : /^Bearer +(\S+)$/i.exec(authorization)?.[1];
  if (authorization !== undefined && authorization !== '' && bearer === undefined) throw refused('malformed');
  const given = [direct, bearer].filter((text) => text !== undefined && text !== '');
  const [first, second] = given;
  if (first === undefined) throw refused('missing');
  if (second !== undefined && second !== first) throw refused('ambiguous');
  return first;
}

export function createApiKeys(options: ApiKeysOptions): ApiKeys {
  const { database, environment, header, maxCached = 10_000, now = () => performance.now() } = options;
  // Apart, so that a flood of wrong keys cannot push the good ones out.
  const good = new BoundedCache<Identity>(maxCached, options.keepGoodMs ?? 5000, now);
  const bad = new BoundedCache<RefusalReason>(maxCached, options.keepRefusedMs ?? 1000, now);
  const asking = new Map<string, Promise<Identity>>();

  async function ask(key: ApiKey, hash: Buffer, name: string): Promise<Identity> {
    const [found] = await database.query<FoundKey>(findKey, [key.lookup]);
    const same = timingSafeEqual(hash, found?.key_hash ?? nobodysHash);
    const reason = found === undefined || !same ? 'unknown' : found.state;
    if (found === undefined || reason !== 'good') {
      const why: RefusalReason = reason === 'good' ? 'unknown' : reason;
      bad.set(name, why);
      throw refused(why);
    }
    const identity = { tenant: found.tenant, keyId: found.key_id, scopes: found.scopes };
    good.set(name, identity);
    return identity;
  }

  return {
    async authenticate(headers) {
      const text = credentialOf(headers, header);
      if (!text.startsWith('sk_')) throw refused('jwt');
      const key = parseApiKey(text);
      if (key === undefined) throw refused('malformed');
      if (key.environment !== environment) throw refused('environment');
      const hash = hashApiKey(text);
      // By the hash of the whole key: another secret with the same lookup id is another entry.
      const name = hash.toString('base64');
      const known = good.get(name);
      if (known !== undefined) return known;
      const why = bad.get(name);
      if (why !== undefined) throw refused(why);
      const running = asking.get(name);
      if (running !== undefined) return running;
      const answer = ask(key, hash, name).finally(() => asking.delete(name));
      asking.set(name, answer);
      return answer;
    },
  };
}
