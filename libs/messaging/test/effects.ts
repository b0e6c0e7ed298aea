import type { TestDatabase } from '@signalbox/testkit/database';
import type { IntakeHandler, IntakeRecord } from '../src/messaging.ts';
import type { Stack } from './stack.ts';

/** The table that test handlers write to. */
export async function createEffects(database: TestDatabase): Promise<void> {
  await database.query(`create schema effects`);
  await database.query(`grant usage on schema effects to public`);
  await database.query(
    `create table effects.effects (run text, event_id uuid, key text, text text, value jsonb, n bigint generated always as identity, primary key (run, event_id))`,
  );
  await database.query(`grant all on all tables in schema effects to public`);
}

/** A handler whose effect is a row of `run`, unique by event id: its own inbox. */
export function effectsOf(
  run: string,
  before?: (records: readonly IntakeRecord[]) => void | Promise<void>,
): IntakeHandler {
  return async (records, tx, context) => {
    await before?.(records);
    const rows = await tx.query<{ event_id: string }>(
      `insert into effects.effects (run, event_id, key, text, value)
       select $1, u.event_id, u.key, u.text, u.value
       from unnest($2::uuid[], $3::text[], $4::text[], $5::jsonb[]) with ordinality as u(event_id, key, text, value, ord)
       order by u.ord on conflict do nothing returning event_id`,
      [
        run,
        records.map((r) => r.eventId),
        records.map((r) => r.key),
        records.map(messageOf),
        records.map((r) => JSON.stringify(r.value)),
      ],
    );
    context.duplicates(records.length - rows.length);
  };
}

export function messageOf(record: IntakeRecord): string {
  const { value } = record;
  return typeof value === 'object' && value !== null && 'message' in value ? String(value.message) : '';
}

/** Puts a record into conversation.inbound as it is. */
export async function sendRaw(
  stack: Stack,
  key: string | null,
  value: string | Buffer | null,
  headers: Record<string, string | Buffer> = {},
) {
  const producer = stack.kafka().producer({ allowAutoTopicCreation: false });
  await producer.connect();
  await producer.send({
    topic: `${stack.topics.prefix}conversation.inbound`,
    messages: [{ key, value, headers }],
  });
  await producer.disconnect();
}
