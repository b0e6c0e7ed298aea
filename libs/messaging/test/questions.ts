import { newId } from '@signalbox/contracts/ids';
import { idKey } from '@signalbox/contracts/keys';
import { isFault } from '@signalbox/faults/fault';
import { waitFor } from '@signalbox/testkit/wait';
import { type AnswererOptions, openAnswerer, type Reply } from '../src/answerer.ts';
import { openAsker } from '../src/asker.ts';
import { countingMetrics } from './counting-metrics.ts';
import type { Process, ProcessOptions, Stack } from './stack.ts';

export const requests = 'memory.recall.requests';
export const results = 'memory.recall.results';
export type RecallAnswer = Reply<typeof results>;
type Answers = AnswererOptions<typeof requests, typeof results>;
type Answer = (query: string, signal: AbortSignal) => Promise<RecallAnswer>;

interface AskMore {
  readonly deadlineMs?: number;
  readonly signal?: AbortSignal;
  readonly tenant?: string;
}

/** Services that ask and answer over the topics of a stack. */
export class Questions {
  readonly #stack: Stack;
  readonly #open = new Set<Process>();
  /** Those of this test: the topic still holds the questions of others, some of them before their deadline. */
  readonly #asking = new Set<string>();
  #services = 0;

  constructor(stack: Stack) {
    this.#stack = stack;
  }

  newService(role: string): string {
    this.#services += 1;
    return `${role}-${this.#services}`;
  }

  process(service: string, options: ProcessOptions = {}): Process {
    const process = this.#stack.process({ service, ...options });
    this.#open.add(process);
    return process;
  }

  async close(process: Process): Promise<void> {
    this.#open.delete(process);
    await process.close();
  }

  async closeAll(): Promise<void> {
    this.#asking.clear();
    await Promise.all([...this.#open].map((process) => this.close(process)));
  }

  /** An instance of a service that asks; fifty questions at a time. */
  asking(service = this.newService('asking'), options: ProcessOptions = {}) {
    const process = this.process(service, options);
    this.#asking.add(service);
    const { metrics, count } = countingMetrics();
    const { messaging, log } = process;
    const asker = openAsker({ messaging, service, requests, results, log, metrics, maxWaiting: 50 });
    const ask = (query: string, { deadlineMs = 10_000, tenant = 'acme', ...more }: AskMore = {}) =>
      asker.ask({
        ...{ tenant, key: idKey(tenant, newId()), eventType: 'memory.recall_requested', deadlineMs },
        ...{ schema: 'memory.recall.requests.v1', value: { query, limit: 5 }, ...more },
      });
    const ready = () => waitFor(asker.ready, (is) => is, { timeoutMs: 30_000, label: 'a partition' });
    return { service, process, asker, ask, ready, count };
  }

  /** An instance of a service that answers each text with itself, unless told otherwise. */
  answering(answer: Answer = async (query) => echo(query), more: Partial<Answers> = {}) {
    const service = this.newService('answering');
    const process = this.process(service);
    const { metrics, count } = countingMetrics();
    const { messaging, log } = process;
    const answerer = openAnswerer({
      ...{ messaging, service, requests, results, log, metrics },
      answers: {
        'memory.recall_requested': {
          accepts: ({ headers }) => this.#asking.has(headers.reply_to ?? ''),
          answer: (record, signal) => answer(record.value.query, signal),
        },
      },
      refused: 'memory.refused',
      ...more,
    });
    const ready = () =>
      waitFor(
        () => answerer.consumer.assigned().length,
        (partitions) => partitions > 0,
        { timeoutMs: 30_000, label: 'a partition' },
      );
    return { process, answerer, count, ready };
  }
}

/** One memory with this text. */
export function echo(text: string): RecallAnswer {
  const occurred_at = new Date().toISOString();
  const memory = { memory_id: newId(), version: 1, namespace: 'default', role: 'note', occurred_at } as const;
  return {
    eventType: 'memory.recalled',
    value: { memories: [{ ...memory, text, score: 1 }], took_ms: 1 },
  };
}

/** The text of an answer, the code of a refusal. */
export function textIn(answer: RecallAnswer): string {
  if (answer.eventType === 'memory.refused') return answer.value.error_code;
  return answer.eventType === 'memory.recalled' ? (answer.value.memories[0]?.text ?? '') : '';
}

/** The text it is answered with, or the code of the fault. */
export const outcomeOf = (asked: Promise<RecallAnswer>): Promise<string> => asked.then(textIn, codeOf);

export const codeOf = (error: unknown): string => (isFault(error) ? error.code : String(error));
