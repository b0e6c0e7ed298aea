import { newId } from '@signalbox/contracts/ids';
import type { SourceTopicName } from '@signalbox/contracts/topics';
import { type FaultProxy, startFaultProxy } from '@signalbox/testkit/fault-proxy';
import { testInfra } from '@signalbox/testkit/infra';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, afterEach, beforeAll, beforeEach } from 'vitest';
import type { BusClient } from '../../src/bus-client.ts';
import type {
  AppendHandler,
  Consumer,
  IntakeHandler,
  IntakeRecord,
  MessagingSettings,
} from '../../src/messaging.ts';
import { partitionOf } from '../../src/murmur2.ts';
import { createEffects, effectsOf, messageOf } from '../effects.ts';
import { brokersSession } from '../member-wrappers.ts';
import { inbound, type Process, Stack } from '../stack.ts';

const topic = 'conversation.inbound';

export interface ReaderOptions {
  readonly bus?: BusClient;
  readonly bootstrap?: string;
  readonly settings?: Partial<MessagingSettings>;
}

/** A consumer of its own process that keeps what it got. */
export interface Reader {
  readonly process: Process;
  readonly consumer: Consumer;
  readonly seen: IntakeRecord[];
}

export interface Harness {
  readonly stack: Stack;
  /** Between processes that ask for it and the broker. */
  readonly proxy: FaultProxy;
  /** New ones for each test, four in each of the six partitions: the topic holds what the tests before have sent. */
  readonly sessions: readonly string[];
  /** A process on the bus under test; closed after the test. */
  process(options?: ReaderOptions): Process;
  /** Appends of conversation.inbound; `before` may fail or wait in the place of a handler. */
  append(group: string, options?: ReaderOptions, before?: AppendHandler): Reader;
  /** Intake of conversation.inbound, whose effects are rows of the run. */
  intake(run: string, options?: ReaderOptions, before?: IntakeHandler): Reader;
  /** One message of each text to every session. */
  send(...texts: string[]): Promise<void>;
  sendTo(sessions: readonly string[], ...texts: string[]): Promise<void>;
  /** The texts of a session's effects in the run, in the order in which they came about. */
  effects(run: string, session: string): Promise<string[]>;
  /** The texts of all effects of the run, by session. */
  allEffects(run: string): Promise<Map<string, string[]>>;
  assigned(reader: Reader, count: number): Promise<unknown>;
  close(reader: Reader): Promise<void>;
}

/** Registers the hooks of a suite; the parts are there once its tests run. */
export function harness(bus: BusClient, ...more: SourceTopicName[]): Harness {
  let stack: Stack;
  let proxy: FaultProxy;
  let sender: Process;
  const open = new Set<Process>();
  let sessions: readonly string[] = [];

  beforeAll(async () => {
    stack = await Stack.create(topic, ...more);
    await createEffects(stack.database);
    const [host = '', port = ''] = testInfra().kafka.split(':');
    proxy = await startFaultProxy({ host, port: Number(port), kafka: true });
    sender = stack.process();
  });
  beforeEach(() => {
    sessions = Array.from({ length: 6 }, (_, partition) => sessionsIn(partition, 4)).flat();
  });
  afterEach(async () => {
    await proxy.heal();
    await Promise.all([...open].map((process) => process.close()));
    open.clear();
  });
  afterAll(async () => {
    await proxy?.close();
    await stack?.drop();
  });

  function process(options: ReaderOptions = {}): Process {
    const opened = stack.process({
      bus: brokersSession(options.bus ?? bus),
      settings: { kafkaRequestTimeoutMs: 1_000, kafkaConnectionTimeoutMs: 500, ...options.settings },
      ...(options.bootstrap === undefined ? {} : { bootstrap: options.bootstrap }),
    });
    open.add(opened);
    return opened;
  }

  const parts: Harness = {
    get stack() {
      return stack;
    },
    get proxy() {
      return proxy;
    },
    get sessions() {
      return sessions;
    },
    process,
    append(group, options, before) {
      const opened = process(options);
      const seen: IntakeRecord[] = [];
      const consumer = opened.messaging.consumeRaw({
        topic,
        group,
        handler: async (records, context) => {
          await before?.(records, context);
          seen.push(...records);
        },
      });
      return { process: opened, consumer, seen };
    },
    intake(run, options, before) {
      const opened = process(options);
      const seen: IntakeRecord[] = [];
      const effect = effectsOf(run);
      const consumer = opened.messaging.consume({
        topic,
        group: run,
        inbox: 'own-row',
        handler: async (records, tx, context) => {
          await before?.(records, tx, context);
          await effect(records, tx, context);
          tx.afterCommit(() => void seen.push(...records));
        },
      });
      return { process: opened, consumer, seen };
    },
    send: (...texts) => parts.sendTo(sessions, ...texts),
    async sendTo(to, ...texts) {
      for (const text of texts) {
        await sender.database.transaction((tx) =>
          sender.messaging.outbox.put(
            tx,
            to.map((session) => inbound(session, text)),
          ),
        );
      }
    },
    async effects(run, session) {
      return (await parts.allEffects(run)).get(session) ?? [];
    },
    async allEffects(run) {
      const rows = await stack.database.query<{ key: string; text: string }>(
        'select key, text from effects.effects where run = $1 order by n',
        [run],
      );
      const bySession = new Map<string, string[]>();
      for (const { key, text } of rows) {
        const session = key.slice('acme:'.length);
        bySession.set(session, [...(bySession.get(session) ?? []), text]);
      }
      return bySession;
    },
    assigned: (reader, count) =>
      waitFor(
        () => reader.consumer.assigned(),
        (partitions) => partitions.length === count,
        { timeoutMs: 20_000, label: `${count} partitions` },
      ),
    async close(reader) {
      open.delete(reader.process);
      await reader.process.close();
    },
  };
  return parts;
}

/** The texts of a session, each once, in the order in which they came first. */
export function textsOf(records: readonly IntakeRecord[], session: string): string[] {
  return [...new Set(records.filter(({ sessionId }) => sessionId === session).map(messageOf))];
}

/** Waits until every session has had this text. */
export function haveAll(readers: readonly Reader[], sessions: readonly string[], text: string, ms = 15_000) {
  return waitFor(
    () => readers.flatMap(({ seen }) => seen),
    (seen) => {
      const got = new Set(seen.filter((each) => messageOf(each) === text).map(({ sessionId }) => sessionId));
      return sessions.every((session) => got.has(session));
    },
    { timeoutMs: ms, label: `${text} in every session` },
  );
}

/** New session ids whose keys fall into the partition. */
function sessionsIn(partition: number, count: number): string[] {
  const found: string[] = [];
  while (found.length < count) {
    const session = newId();
    if (partitionOf(`acme:${session}`, 6) === partition) found.push(session);
  }
  return found;
}
