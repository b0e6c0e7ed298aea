import { headerNames } from '@signalbox/contracts/headers';
import { newId } from '@signalbox/contracts/ids';
import { type EventType, type EventValue, topicEvents } from '@signalbox/contracts/topic-events';
import type { SourceTopicName } from '@signalbox/contracts/topics';
import { asFault, type Fault, fault } from '@signalbox/faults/fault';
import type { Logger, Metrics } from '@signalbox/telemetry/telemetry';
import { attribute, withSpan } from '@signalbox/telemetry/trace';
import type { IntakeRecord, RecordHead } from './decode-record.ts';
import type { Messaging } from './messaging.ts';
import { sendNow } from './questions.ts';

export interface AskerOptions<Requests extends SourceTopicName, Results extends SourceTopicName> {
  readonly messaging: Messaging;
  /** `reply_to` of what is asked, and the group on the results. */
  readonly service: string;
  readonly requests: Requests;
  readonly results: Results;
  readonly log: Logger;
  readonly metrics: Metrics;
  /** Questions that wait for an answer at most. Default 1 000. */
  readonly maxWaiting?: number;
}

export interface Question<Requests extends SourceTopicName> {
  readonly tenant: string;
  /** `tenant:<id of the request>`. */
  readonly key: string;
  readonly eventType: EventType<Requests>;
  readonly schema: string;
  /** `deadline_at` is set from deadlineMs. */
  readonly value: object;
  /** From the call on; the wait for a first assignment counts. */
  readonly deadlineMs: number;
  readonly sessionId?: string | undefined;
  readonly requestId?: string | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** One of the events of the results, with its value; the topic's refusal is one of them. */
export type Answer<Results extends SourceTopicName> = {
  [E in EventType<Results>]: { readonly eventType: E; readonly value: EventValue<Results, E> };
}[EventType<Results>];

export interface Asker<Requests extends SourceTopicName, Results extends SourceTopicName> {
  /**
   * Asks the service that owns the answer and waits for it, in memory: an answer counts once, a rebalance may cost it.
   * Faults: OWNER_TIMEOUT (no answer by the deadline, or too many wait), KAFKA_UNAVAILABLE (the question was not sent, or
   * no partition of the results is this instance's), ABORTED (by the signal, or the process stops).
   */
  ask(question: Question<Requests>): Promise<Answer<Results>>;
  /** Whether answers can reach this instance now. */
  ready(): boolean;
}

/**
 * Which partitions of the results are this instance's.
 *
 * - `joining`: not known. What is asked waits for the join, at most until its deadline.
 * - `joined`: these, or none, when the group has more members than the topic partitions.
 * - `stopped`: nothing can be answered any more.
 */
type Owned =
  | { readonly state: 'joining' }
  | { readonly state: 'joined'; readonly partitions: readonly number[] }
  | { readonly state: 'stopped' };

interface Waiting<Results extends SourceTopicName> {
  readonly tenant: string;
  readonly resolve: (answer: Answer<Results>) => void;
  readonly reject: (reason: Fault) => void;
}

type Outcome = 'answered' | 'owner_timeout' | 'kafka_unavailable' | 'aborted' | 'failed';

const defaultMaxWaiting = 1_000;
/** How far the clocks of those who answer may be behind. */
const clockSkewMs = 10_000;

/**
 * Questions to another service over a pair of topics, each with a deadline (delivery rule 23). An answer comes to the
 * partition that its question named: one that this very instance reads, for all instances of a service are one group.
 */
export function openAsker<Requests extends SourceTopicName, Results extends SourceTopicName>(
  options: AskerOptions<Requests, Results>,
): Asker<Requests, Results> {
  const { messaging, service, requests, results, log } = options;
  const maxWaiting = options.maxWaiting ?? defaultMaxWaiting;
  const seconds = options.metrics.histogram('ask_seconds', {
    help: 'Seconds that a question to another service waited, by its topic and how the wait ended.',
    labels: ['requests', 'outcome'],
  });
  const dropped = options.metrics.counter('answers_dropped_total', {
    help: 'Answers that nobody waited for (late), or of another tenant than the question (tenant), or of an unknown type (type).',
    labels: ['results', 'reason'],
  });
  const waiting = new Map<string, Waiting<Results>>();
  const onJoined = new Set<() => void>();
  let owned: Owned = { state: 'joining' };
  let next = 0;

  messaging.consumeRaw({
    topic: results,
    group: service,
    accepts: isAwaited,
    // Behind the work that asks: what runs on in a stop is answered as before.
    stopPhase: 'streams',
    async handler(records) {
      for (const record of records) take(record);
    },
    // A group that is new, or was away, would read answers of an hour first, and its own come too late behind them.
    beginAt: Date.now() - clockSkewMs,
    onAssigned: (partitions) => set({ state: 'joined', partitions }),
    onRevoked: () => set({ state: 'joining' }),
    onStopped() {
      set({ state: 'stopped' });
      for (const { reject } of waiting.values()) reject(fault('ABORTED', 'the process stops'));
    },
  });

  function set(now: Owned): void {
    if (owned.state === 'stopped') return;
    owned = now;
    if (now.state === 'joining') return;
    for (const wake of [...onJoined]) wake();
  }

  /** Before its value is read: what is for others, or for nobody any more, costs no more than its headers. */
  function isAwaited({ headers }: RecordHead): boolean {
    if (headers[headerNames.replyTo] !== service) return false;
    if (waiting.has(headers[headerNames.correlationId] ?? '')) return true;
    dropped.add(1, { results, reason: 'late' });
    return false;
  }

  function take({ tenant, eventType, value, headers }: IntakeRecord): void {
    const question = waiting.get(headers[headerNames.correlationId] ?? '');
    const answer = { eventType, value };
    if (question === undefined) dropped.add(1, { results, reason: 'late' });
    else if (question.tenant !== tenant) {
      dropped.add(1, { results, reason: 'tenant' });
      log.error('ask.foreign_answer', { topic: results, eventType });
    } else if (isAnswerOf(results, answer)) question.resolve(answer);
    else dropped.add(1, { results, reason: 'type' });
  }

  /** One of the own partitions, in turns. @throws KAFKA_UNAVAILABLE when there is none, ABORTED. */
  async function replyPartition(signal: AbortSignal): Promise<number> {
    while (owned.state === 'joining') {
      const { promise, resolve } = Promise.withResolvers<void>();
      onJoined.add(resolve);
      signal.addEventListener('abort', () => resolve(), { once: true });
      await promise;
      onJoined.delete(resolve);
      if (signal.aborted) throw asFault(signal.reason);
    }
    if (owned.state === 'stopped') throw fault('ABORTED', 'the process stops');
    next += 1;
    const partition = owned.partitions[next % Math.max(owned.partitions.length, 1)];
    if (partition === undefined) {
      throw fault('KAFKA_UNAVAILABLE', `no partition of ${results} is read by this instance`);
    }
    return partition;
  }

  async function send(question: Question<Requests>, correlationId: string, signal: AbortSignal) {
    const { tenant, key, eventType, schema, value, deadlineMs, sessionId, requestId } = question;
    const deadline_at = new Date(Date.now() + deadlineMs).toISOString();
    const partition = await replyPartition(signal);
    await sendNow({
      messaging,
      service,
      signal,
      message: {
        ...{ topic: requests, key, tenant, eventType, schema, sessionId, requestId },
        ...{ eventId: correlationId, correlationId, replyTo: service, replyPartition: partition },
        value: { ...value, deadline_at },
      },
    });
  }

  async function answered(question: Question<Requests>): Promise<Answer<Results>> {
    const { tenant, deadlineMs, signal } = question;
    if (signal?.aborted === true)
      throw fault('ABORTED', 'the answer is not waited for', { cause: signal.reason });
    if (waiting.size >= maxWaiting) throw fault('OWNER_TIMEOUT', 'too many questions wait for an answer');
    const { promise, resolve, reject } = Promise.withResolvers<Answer<Results>>();
    const over = new AbortController();
    const correlationId = newId();
    let sent = false;
    const timer = setTimeout(() => {
      const why = sent
        ? fault('OWNER_TIMEOUT', `nobody answered ${question.eventType} within ${deadlineMs} ms`)
        : fault('KAFKA_UNAVAILABLE', `${question.eventType} could not be sent within ${deadlineMs} ms`);
      reject(why);
    }, deadlineMs);
    const onAbort = () => reject(fault('ABORTED', 'the answer is not waited for', { cause: signal?.reason }));
    signal?.addEventListener('abort', onAbort, { once: true });
    waiting.set(correlationId, { tenant, resolve, reject });
    send(question, correlationId, over.signal).then(() => {
      sent = true;
    }, reject);
    try {
      return await promise;
    } catch (error) {
      over.abort(error);
      throw error;
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
      waiting.delete(correlationId);
    }
  }

  return {
    async ask(question) {
      const { tenant, sessionId, eventType } = question;
      const startedAt = performance.now();
      let outcome: Outcome = 'answered';
      const attributes = {
        'signalbox.event_type': eventType,
        [attribute.tenantId]: tenant,
        ...(sessionId === undefined ? {} : { [attribute.sessionId]: sessionId }),
      };
      try {
        return await withSpan(`ask ${requests}`, { kind: 'client', attributes }, () => answered(question));
      } catch (error) {
        outcome = outcomes[asFault(error).code] ?? 'failed';
        throw error;
      } finally {
        seconds.record((performance.now() - startedAt) / 1_000, { requests, outcome });
      }
    },
    ready: () => owned.state === 'joined' && owned.partitions.length > 0,
  };
}

const outcomes: Readonly<Record<string, Outcome>> = {
  OWNER_TIMEOUT: 'owner_timeout',
  KAFKA_UNAVAILABLE: 'kafka_unavailable',
  ABORTED: 'aborted',
};

/** The value was checked against the schema of its event type; a type of a later release is no answer here. */
function isAnswerOf<Results extends SourceTopicName>(
  results: Results,
  answer: { readonly eventType: string; readonly value: unknown },
): answer is Answer<Results> {
  return Object.hasOwn(topicEvents[results].events, answer.eventType);
}
