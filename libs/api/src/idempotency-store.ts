import { newId } from '@signalbox/contracts/ids';
import { fault, isFault } from '@signalbox/faults/fault';
import { pause } from '@signalbox/lifecycle/pause';
import type { Database, Transaction } from '@signalbox/postgres/database';
import type { Settled, Write, WriteAnswer } from './write-routes.ts';

/** What a write changes; it may run several times, each in a transaction of its own of which one at most commits. */
export type Effect = (tx: Transaction) => Promise<WriteAnswer>;

interface KeyRow {
  readonly body_hash: Buffer;
  readonly event_id: string;
  readonly status: number;
  readonly location: string | null;
  readonly answer: object | null;
}

/** The store's statements on the table of `sql/idempotency-keys.ts`. */
function statements(schema: string) {
  if (!/^[a-z][a-z_]{0,40}$/.test(schema)) throw new Error(`${schema}: not a plain SQL name`);
  const table = `${schema}.idempotency_keys`;
  return {
    takeKey: {
      name: `${schema}_key_take`,
      text: `insert into ${table} (tenant, route, key, body_hash, event_id, answer)
        values ($1, $2, $3, $4, $5, 'null') on conflict do nothing returning key`,
    },
    readKey: {
      name: `${schema}_key_read`,
      text: `select body_hash, event_id, status, location, answer from ${table}
        where tenant = $1 and route = $2 and key = $3`,
    },
    keepAnswer: {
      name: `${schema}_key_keep`,
      text: `update ${table} set status = $4, location = $5, answer = $6
        where tenant = $1 and route = $2 and key = $3`,
    },
  };
}

export interface IdempotencyStoreOptions {
  readonly database: Database;
  /** Whose `idempotency_keys` they are. */
  readonly schema: string;
  /** How long a write whose outcome is unknown is repeated with the same ids. */
  readonly timeoutMs: number;
}

/**
 * Runs effects under their idempotency keys. The key's row is of the effect's own transaction and its first statement:
 *
 *   replica 1 inserts the key, its effect runs → replica 2 inserts the same key and waits for replica 1's transaction
 *   → commit: 2 finds the row and answers from it; rollback: 2 has the key and its effect runs
 *
 * A transaction whose outcome is unknown is repeated under the same request id: a row with that id says that the effect
 * is there. A request without a key is given one that no client can send (it holds a blank), for the same reason.
 */
export function createIdempotencyStore({ database, schema, timeoutMs }: IdempotencyStoreOptions) {
  const { takeKey, readKey, keepAnswer } = statements(schema);

  async function attempt(write: Write, key: string, requestId: string, effect: Effect, leftMs: number) {
    const { tenant, route, bodyHash } = write;
    const id = [tenant, route, key];
    return await database.transaction(
      async (tx): Promise<Settled> => {
        const taken = await tx.query(takeKey, [...id, bodyHash, requestId]);
        if (taken.length === 0) {
          const [row] = await tx.query<KeyRow>(readKey, id);
          // It was pruned between the two statements: tried again, it is free.
          if (row === undefined)
            throw fault('DATABASE_UNAVAILABLE', 'the idempotency key was just forgotten');
          return settledBy(row, bodyHash, requestId);
        }
        const answer = await effect(tx);
        const { status, location, body } = answer;
        await tx.query(keepAnswer, [...id, status, location ?? null, JSON.stringify(body ?? null)]);
        return { answer, replayed: false };
      },
      { tenant, timeoutMs: leftMs },
    );
  }

  return {
    /**
     * Answers from the key's row, or has the effect and keeps its answer. Throws what the effect throws, and then
     * nothing is kept; IDEMPOTENCY_KEY_REUSED; DATABASE_UNAVAILABLE when it is still not known at the end of the time.
     */
    async once(write: Write, effect: Effect): Promise<Settled> {
      const requestId = newId();
      const key = write.key ?? `none ${requestId}`;
      const deadline = performance.now() + timeoutMs;
      for (let delayMs = 25; ; delayMs = Math.min(delayMs * 2, 400)) {
        try {
          return await attempt(write, key, requestId, effect, deadline - performance.now());
        } catch (error) {
          const waitMs = delayMs / 2 + Math.random() * (delayMs / 2);
          if (!isFault(error, 'DATABASE_UNAVAILABLE') || performance.now() + waitMs > deadline) throw error;
          await pause(waitMs);
        }
      }
    },

    /** The answer that is kept for the key; undefined when there is none. Throws IDEMPOTENCY_KEY_REUSED. */
    async find({ tenant, route, key, bodyHash }: Write): Promise<Settled | undefined> {
      if (key === undefined) return undefined;
      const [row] = await database.transaction((tx) => tx.query<KeyRow>(readKey, [tenant, route, key]), {
        tenant,
      });
      return row === undefined ? undefined : settledBy(row, bodyHash, undefined);
    },
  };
}

function settledBy(row: KeyRow, bodyHash: Buffer, requestId: string | undefined): Settled {
  if (!row.body_hash.equals(bodyHash)) throw keyReused();
  const { status, location, answer: body } = row;
  return {
    answer: { status, ...(location === null ? {} : { location }), ...(body === null ? {} : { body }) },
    // Our own id: an earlier try of this very request, the answer to which was lost.
    replayed: row.event_id !== requestId,
  };
}

export function keyReused(): Error {
  return fault('IDEMPOTENCY_KEY_REUSED', 'this Idempotency-Key was used with another request');
}
