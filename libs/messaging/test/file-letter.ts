import { type DeadLetter, fileDeadLetter } from '../src/dead-letters.ts';
import { toRecord } from '../src/outgoing.ts';
import { inbound, type Process } from './stack.ts';

let offsets = 0n;

/** Files a message of the session as poison and resolves with the id; what is left out is that of a valid record. */
export async function fileLetter(
  process: Process,
  session: string,
  text: string,
  more: Partial<DeadLetter> = {},
): Promise<string> {
  offsets += 1n;
  const message = inbound(session, text);
  const record = toRecord(message, '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01');
  const letter: DeadLetter = {
    ...{ tenant: 'acme', topic: 'conversation.inbound', partition: 3, offset: offsets },
    ...{ timestampMs: Date.now(), consumer: 'a.group', reason: 'handler', detail: 'it said no', attempts: 2 },
    ...{ key: Buffer.from(record.key), eventId: message.eventId, headers: record.headers },
    ...{ value: record.value, traceparent: record.headers.traceparent },
    ...more,
  };
  await process.database.transaction((tx) => fileDeadLetter(tx, letter));
  const [filed] = await process.database.query<{ id: string }>(
    `select id from messaging.dead_letter_list($1, $2, 'all', null, 1)`,
    [letter.tenant, letter.topic],
  );
  if (filed === undefined) throw new Error('was not filed');
  return filed.id;
}
