import { isDeepStrictEqual } from 'node:util';
import { newId } from '@signalbox/contracts/ids';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { BusClient } from '../../src/bus-client.ts';
import type { IntakeRecord } from '../../src/messaging.ts';
import { createEffects, effectsOf } from '../effects.ts';
import { type Process, Stack } from '../stack.ts';
import { sendForeignBatches, sendWire, type WireRecord } from '../wire.ts';
import { type CorpusRecord, neighbour, poisonCorpus, pollution } from './poison-corpus.ts';

const topic = 'conversation.inbound';

/** A record in the log, with its offset. */
interface Sent {
  readonly partition: number;
  readonly offset: bigint;
  readonly text: string;
  /** Undefined for a neighbour. */
  readonly of: CorpusRecord | undefined;
}

/** What records of any bytes must not do to a consumer (delivery rule 10). On a real broker and a real database. */
export function describePoison(name: string, bus: BusClient): void {
  describe(`${name}: poison`, () => {
    let stack: Stack;
    const open = new Set<Process>();

    beforeAll(async () => {
      stack = await Stack.create(topic);
      await createEffects(stack.database);
    });
    afterEach(async () => {
      await Promise.all([...open].map((process) => process.close()));
      open.clear();
    });
    afterAll(() => stack?.drop());

    function start(): Process {
      const process = stack.process({ bus });
      open.add(process);
      return process;
    }

    /** A consumer that keeps what its handler got, by offset, and whose effects are rows of `run`. */
    function intake(run: string): { process: Process; seen: Map<bigint, IntakeRecord> } {
      const process = start();
      const seen = new Map<bigint, IntakeRecord>();
      const effect = effectsOf(run);
      process.messaging.consume({
        topic,
        group: run,
        inbox: 'own-row',
        handler: async (records, tx, context) => {
          await effect(records, tx, context);
          for (const record of records) seen.set(record.offset, record);
        },
      });
      return { process, seen };
    }

    const effects = async (run: string, session: string) =>
      (
        await stack.database.query<{ text: string }>(
          'select text from effects.effects where run = $1 and key = $2 order by n',
          [run, `acme:${session}`],
        )
      ).map(({ text }) => text);

    async function send(records: readonly CorpusRecord[], session: string): Promise<Sent[]> {
      const all: { text: string; of: CorpusRecord | undefined; wire: WireRecord }[] = [];
      const good = () => {
        const text = `neighbour ${all.length}`;
        all.push({ text, of: undefined, wire: neighbour(session, text) });
      };
      good();
      for (const record of records) {
        all.push({ text: textOf(record), of: record, wire: record.wire });
        good();
      }
      const offsets = await sendWire(
        stack,
        topic,
        all.map(({ wire }) => wire),
      );
      return all.map(({ text, of, wire }, i) => ({
        text,
        of,
        partition: wire.partition,
        offset: offsets[i] ?? -1n,
      }));
    }

    /** Everything that was promised of these records, after the last of them was handled in the group. */
    async function judge(process: Process, group: string, sent: readonly Sent[]): Promise<void> {
      const letters = await deadLetters(group, sent);
      const inTopic = await waitFor(
        () => deadLetterRecords(group, sent),
        (found) => found.size === letters.size,
        { label: 'every dead letter in its topic' },
      );
      const found = sent.flatMap(({ offset, of }) => {
        const letter = letters.get(offset);
        if (of === undefined) return letter === undefined ? [] : ['a neighbour is a dead letter'];
        if (of.fate.kind !== 'dead') return letter === undefined ? [] : [`${of.name}: ${letter.reason}`];
        const { reason, tenant } = of.fate;
        if (letter?.reason !== reason || letter.tenant !== tenant)
          return [`${of.name}: ${letter?.reason ?? 'no dead letter'} of ${letter?.tenant}`];
        const record = inTopic.get(offset);
        const wrong = [
          ...(sameBytes(letter.value, of.wire.value) ? [] : ['the row has other bytes']),
          ...(keepsBytes(record, of.wire) ? [] : ['the topic has other bytes']),
        ];
        return wrong.map((each) => `${of.name}: ${each}`);
      });
      expect(found).toEqual([]);
      // The process lives, in its first life, and nothing has got onto what all objects share.
      expect(process.log.lines.filter(({ event }) => disasters.has(event))).toEqual([]);
      expect(Object.keys(Object.prototype)).toEqual([]);
      expect(pollution in {}).toBe(false);
    }

    interface Letter {
      readonly reason: string;
      readonly tenant: string;
      readonly value: Buffer | null;
    }
    async function deadLetters(group: string, sent: readonly Sent[]): Promise<Map<bigint, Letter>> {
      const rows = await stack.database.query<Letter & { record_offset: string }>(
        `select reason, tenant, value, record_offset from messaging.dead_letters
         where consumer like $1 and partition = $2 and record_offset = any($3::bigint[])`,
        [`%.${group}.%`, sent[0]?.partition, sent.map(({ offset }) => offset.toString())],
      );
      return new Map(rows.map((row) => [BigInt(row.record_offset), row]));
    }
    async function deadLetterRecords(group: string, sent: readonly Sent[]): Promise<Map<bigint, DeadRecord>> {
      const ours = new Set(sent.map(({ partition, offset }) => `${partition} ${offset}`));
      const records = (await stack.read(`${topic}.dlq`)).map(
        (record): DeadRecord => JSON.parse(record.value),
      );
      return new Map(
        records
          .filter(
            (each) => each.consumer.includes(`.${group}.`) && ours.has(`${each.partition} ${each.offset}`),
          )
          .map((record) => [BigInt(record.offset), record]),
      );
    }

    /** What handlers must have got and had an effect of, in this order. */
    const wanted = (sent: readonly Sent[]) =>
      sent.filter(({ of }) => of === undefined || of.fate.kind === 'taken').map(({ text }) => text);

    it('a topic full of it: every neighbour has its effect once and in order, the rest is put aside with its bytes', async () => {
      const session = newId();
      const sent = await send(poisonCorpus(session), session);
      const { process, seen } = intake('batch');
      await waitFor(
        () => effects('batch', session),
        (got) => got.at(-1) === sent.at(-1)?.text,
        { timeoutMs: 25_000, label: 'the last neighbour' },
      );
      expect(await effects('batch', session)).toEqual(wanted(sent));
      await judge(process, 'batch', sent);
      const changed = sent.filter(({ of, offset }) => {
        if (of?.fate.kind !== 'taken') return false;
        const record = seen.get(offset);
        return record === undefined || !isUntouched(record, of.wire);
      });
      expect(changed.map(({ of }) => of?.name)).toEqual([]);
    });

    it('the same for appends without a transaction', async () => {
      const session = newId();
      const sent = await send(poisonCorpus(session), session);
      const process = start();
      const appended: string[] = [];
      const ids = new Set<string>();
      const settled = new Set<string>();
      process.messaging.consumeRaw({
        topic,
        group: 'append',
        handler: async (records) => {
          for (const record of records) {
            if (record.sessionId !== session || ids.has(record.eventId)) continue;
            ids.add(record.eventId);
            appended.push(messageIn(record.value));
          }
        },
        settled: async ({ partition, next }) => void settled.add(`${partition} ${next - 1n}`),
      });
      await waitFor(
        () => appended,
        (got) => got.at(-1) === sent.at(-1)?.text,
        { timeoutMs: 25_000, label: 'the last neighbour' },
      );
      expect(appended).toEqual(wanted(sent));
      await judge(process, 'append', sent);
      const buried = sent.filter(({ of }) => of?.fate.kind === 'dead');
      expect(buried.filter(({ partition, offset }) => !settled.has(`${partition} ${offset}`))).toEqual([]);
    });

    it('batches that other clients pack, or write in transactions, are read like any; what was given up is not there', async () => {
      const session = newId();
      const texts = (kind: string) => [1, 2, 3].map((n) => neighbour(session, `${kind} ${n}`));
      await sendForeignBatches(stack, topic, {
        packed: texts('packed'),
        givenUp: texts('given up'),
        kept: texts('kept'),
      });
      await sendWire(stack, topic, [neighbour(session, 'last')]);
      const { process } = intake('foreign');
      await waitFor(
        () => effects('foreign', session),
        (got) => got.includes('last'),
        { timeoutMs: 15_000, label: 'the record behind them' },
      );
      const wanted = ['packed', 'kept'].flatMap((kind) => [1, 2, 3].map((n) => `${kind} ${n}`));
      expect(await effects('foreign', session)).toEqual([...wanted, 'last']);
      expect(process.log.lines.filter(({ event }) => disasters.has(event))).toEqual([]);
    });

    it('each alone, between two neighbours: its partition moves on before the next comes', async () => {
      const session = newId();
      const { process } = intake('alone');
      const all: Sent[] = [];
      for (const record of poisonCorpus(session)) {
        const sent = await send([record], session);
        const last = sent.at(-1);
        await waitFor(
          () => effects('alone', session),
          (got) => got.length >= wanted([...all, ...sent]).length,
          { intervalMs: 5, label: `the neighbour after: ${record.name}` },
        );
        expect((await effects('alone', session)).at(-1)).toBe(last?.text);
        all.push(...sent);
      }
      expect(await effects('alone', session)).toEqual(wanted(all));
      await judge(process, 'alone', all);
    }, 90_000);
  });
}

const disasters: ReadonlySet<string> = new Set([
  'consumer.crashed',
  'consumer.interrupted',
  'consumer.rebuilding',
  'consumer.runner_failed',
  'consumer.processor_threw',
  'consumer.listener_failed',
  'consumer.paused',
  'consumer.handler_hangs',
]);

/** The message of `<topic>.dlq`. */
interface DeadRecord {
  readonly consumer: string;
  readonly partition: number;
  readonly offset: string;
  /** The record was too large for this message; the row has it. */
  readonly omitted?: boolean;
  readonly key_base64: string | null;
  readonly value_base64: string | null;
}

function sameBytes(found: Buffer | null | undefined, wanted: Buffer | string | null): boolean {
  if (found === undefined) return false;
  return wanted === null || found === null ? found === wanted : found.equals(Buffer.from(wanted));
}

function keepsBytes(record: DeadRecord | undefined, { key, value }: WireRecord): boolean {
  if (record === undefined) return false;
  if (record.omitted === true) return (value?.length ?? 0) > 500_000;
  const bytes = (text: string | null) => (text === null ? null : Buffer.from(text, 'base64'));
  return sameBytes(bytes(record.key_base64), key) && sameBytes(bytes(record.value_base64), value);
}

function isUntouched(record: IntakeRecord, { key, value, headers }: WireRecord): boolean {
  const given = new Map<string, string>();
  for (const [name, text] of headers) if (!given.has(name)) given.set(name, Buffer.from(text).toString());
  return (
    record.key === key &&
    sameBytes(record.bytes, value) &&
    isDeepStrictEqual(Object.entries(record.headers).sort(), [...given].sort())
  );
}

function messageIn(value: unknown): string {
  return typeof value === 'object' && value !== null && 'message' in value ? String(value.message) : '';
}

/** The message that a taken record has; of any other its name. */
function textOf({ name, fate, wire }: CorpusRecord): string {
  return fate.kind === 'taken' ? messageIn(JSON.parse(String(wire.value).replace(/^\ufeff/, ''))) : name;
}
