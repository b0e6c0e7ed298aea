import { readFileSync } from 'node:fs';
import { isId } from '@signalbox/contracts/ids';
import { isTenant } from '@signalbox/contracts/keys';
import { isTopicName, type TopicName } from '@signalbox/contracts/topics';
import { fault } from '@signalbox/faults/fault';
import {
  type DeadLetterState,
  type DeadLetterSummary,
  type DeadLetters,
  deadLetters,
  noDeadLetter,
  unknownTenant,
} from '@signalbox/messaging/dead-letters';
import type { Database } from '@signalbox/postgres/database';
import { invalid, plain, table, withOperator } from './operator.ts';

/** Whose dead letters: a tenant's, or those that no tenant could be read of. */
export interface Whose {
  readonly tenant?: string;
  readonly unknown?: true;
}

export interface Streams {
  readonly print: (line: string) => void;
  readonly note: (line: string) => void;
  readonly write: (bytes: Buffer) => void;
}

interface Operator {
  readonly database: Database;
  readonly letters: DeadLetters;
  /** `operator:<database role>`. */
  readonly by: string;
}

/** Rows of one transaction of a purge. */
const purgeBatch = 1_000;

/** Without anybody named: what waits of whom. Else a page of theirs, newest first. */
export async function listDeadLetters(
  whose: Whose & {
    readonly topic?: string;
    readonly state?: string;
    readonly limit: number;
    readonly before?: string;
  },
  { print, note }: Streams,
): Promise<void> {
  await asOperator(note, async ({ letters }) => {
    if (whose.tenant === undefined && whose.unknown !== true) {
      const rows = (await letters.overview()).map(({ tenant, topic, reason, waiting, oldest, newest }) => [
        ...[tenant, topic, reason, String(waiting), oldest.toISOString(), newest.toISOString()],
      ]);
      table(['tenant', 'topic', 'reason', 'waiting', 'oldest', 'newest'], rows, print);
      return;
    }
    if (whose.before !== undefined && !isId(whose.before)) throw invalid('before', 'is no id');
    const found = await letters.list({
      ...{ tenant: tenantOf(whose), state: stateOf(whose.state), before: whose.before, limit: whose.limit },
      ...(whose.topic === undefined ? {} : { topic: topicOf(whose.topic) }),
    });
    const columns = ['id', 'put aside', 'topic', 'place', 'reason', 'event', 'key', 'replayed as'];
    table(columns, found.map(cells), print);
    if (found.length === whose.limit) note(`there may be more: --before ${found.at(-1)?.id}`);
  });
}

/** One whole; with `value` its bytes alone, as they are: to a file, to be put right. */
export async function showDeadLetter(
  id: string,
  whose: Whose & { readonly value?: true },
  { print, note, write }: Streams,
): Promise<void> {
  await asOperator(note, async ({ letters }) => {
    const letter = isId(id) ? await letters.get({ tenant: tenantOf(whose), id }) : undefined;
    if (letter === undefined) throw noDeadLetter();
    const { value, headers, place, ...rest } = letter;
    if (whose.value === true) {
      if (value === null) throw fault('NOT_FOUND', 'the record has no value');
      write(value);
      return;
    }
    const shown: Record<string, unknown> = { ...rest, place: placeText(place), headers };
    for (const [name, each] of Object.entries(shown)) print(`${name.padEnd(11)} ${plain(textOf(each))}`);
    print('');
    print(value === null ? '(no value)' : value.toString('utf8').split('\n').map(plain).join('\n'));
  });
}

/** Sends one again as a new event, at the end of its session; as it was, or put right. */
export async function replayDeadLetter(
  id: string,
  order: Whose & { readonly value?: string; readonly eventType?: string; readonly key?: string },
  { print, note }: Streams,
): Promise<void> {
  const correction = {
    ...(order.value === undefined ? {} : { value: readValue(order.value) }),
    ...(order.eventType === undefined ? {} : { eventType: order.eventType }),
    ...(order.key === undefined ? {} : { key: order.key }),
  };
  await asOperator(note, async ({ database, letters, by }) => {
    if (!isId(id)) throw noDeadLetter();
    const replayed = await database.transaction((tx) =>
      letters.replay(tx, { tenant: tenantOf(order), id, by, source: 'cli', correction }),
    );
    print(`replayed to ${replayed.topic}, key ${replayed.key}, as event ${replayed.eventId}`);
  });
}

export async function purgeDeadLetter(id: string, whose: Whose, { print, note }: Streams): Promise<void> {
  await asOperator(note, async ({ database, letters, by }) => {
    const what = { tenant: tenantOf(whose), id, by };
    if (!isId(id) || !(await database.transaction((tx) => letters.purge(tx, what)))) throw noDeadLetter();
    print('purged 1');
  });
}

/** All of a topic that were put aside longer ago than so, in batches. */
export async function purgeOlder(
  order: Whose & { readonly topic: string; readonly olderThan: string },
  { print, note }: Streams,
): Promise<void> {
  const before = new Date(Date.now() - ageMs(order.olderThan));
  await asOperator(note, async ({ database, letters, by }) => {
    const what = { tenant: tenantOf(order), topic: topicOf(order.topic), before, limit: purgeBatch, by };
    let purged = 0;
    for (let batch = purgeBatch; batch === purgeBatch; purged += batch) {
      batch = await database.transaction((tx) => letters.purgeBefore(tx, what));
    }
    print(`purged ${purged}`);
  });
}

async function asOperator(
  note: (line: string) => void,
  use: (operator: Operator) => Promise<void>,
): Promise<void> {
  await withOperator('dlq', note, ({ database, log, by }) =>
    use({ database, letters: deadLetters(database, log), by }),
  );
}

function tenantOf({ tenant, unknown }: Whose): string {
  if (unknown === true && tenant === undefined) return unknownTenant;
  if (unknown === true) throw invalid('tenant', 'cannot be given together with --unknown');
  if (!isTenant(tenant)) throw invalid('tenant', 'is needed, or --unknown for records that name none');
  return tenant;
}

function topicOf(name: string): TopicName {
  if (isTopicName(name)) return name;
  throw fault('NOT_FOUND', `there is no topic ${name}`);
}

function stateOf(text = 'waiting'): DeadLetterState {
  if (text === 'waiting' || text === 'replayed' || text === 'all') return text;
  throw invalid('state', 'is waiting, replayed or all');
}

/** `30m`, `12h`, `7d` as milliseconds. */
function ageMs(text: string): number {
  const [, count, unit] = /^(\d{1,6})([mhd])$/.exec(text) ?? [];
  if (count === undefined) throw invalid('older-than', 'is a number with m, h or d: 30m, 12h, 7d');
  return (
    Number(count) * { m: 60_000, h: 3_600_000, d: 86_400_000 }[unit === 'm' || unit === 'h' ? unit : 'd']
  );
}

function readValue(path: string): object {
  const text = readFileSync(path === '-' ? 0 : path, 'utf8');
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw invalid('value', `${path} is not JSON: ${error instanceof Error ? error.message : ''}`);
  }
  if (typeof value === 'object' && value !== null) return value;
  throw invalid('value', `${path} holds no JSON object`);
}

function cells(letter: DeadLetterSummary): string[] {
  const { id, createdAt, topic, place, reason, eventType, key, replayedAs } = letter;
  return [
    ...[id, createdAt.toISOString(), topic, placeText(place), reason, eventType ?? '–', key ?? '–'],
    replayedAs ?? '–',
  ];
}

function placeText(place: DeadLetterSummary['place']): string {
  return place === undefined ? 'outbox' : `${place.partition}/${place.offset}`;
}

function textOf(value: unknown): string {
  if (value === null || value === undefined) return '–';
  if (value instanceof Date) return value.toISOString();
  return typeof value === 'object' ? JSON.stringify(value) : String(value);
}
