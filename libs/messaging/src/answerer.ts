import { headerNames } from '@signalbox/contracts/headers';
import { newId } from '@signalbox/contracts/ids';
import { type EventType, type EventValue, topicEvents } from '@signalbox/contracts/topic-events';
import type { SourceTopicName } from '@signalbox/contracts/topics';
import { asFault, type Fault, fault } from '@signalbox/faults/fault';
import { runWithContext } from '@signalbox/telemetry/context';
import type { Logger, Metrics } from '@signalbox/telemetry/telemetry';
import { attribute, failSpan, withSpan } from '@signalbox/telemetry/trace';
import type { AppendHandler } from './append.ts';
import type { Answer } from './asker.ts';
import type { IntakeRecord } from './decode-record.ts';
import { FairQueue } from './fair-queue.ts';
import type { Consumer, Messaging } from './messaging.ts';
import { deadlineOf, type ReplyAddress, replyAddress, sendNow } from './questions.ts';

/** A question as it was asked; its value was checked against the schema. */
export type AskedRecord<Requests extends SourceTopicName, E extends EventType<Requests>> = IntakeRecord & {
  readonly value: EventValue<Requests, E>;
};

/** One of the events of the results; `schema` is the topic's, and may be left out. */
export type Reply<Results extends SourceTopicName> = Answer<Results> & { readonly schema?: string };

/** How questions of one type are answered. */
export interface Answering<
  Requests extends SourceTopicName,
  E extends EventType<Requests>,
  Results extends SourceTopicName,
> {
  /** Whether it is for this service at all, by its value. What is not leaves no trace. */
  accepts?(record: AskedRecord<Requests, E>): boolean;
  /** The signal aborts at the question's deadline and when the process stops. A fault becomes the topic's refusal. */
  answer(record: AskedRecord<Requests, E>, signal: AbortSignal): Promise<Reply<Results>>;
}

type AnswersOf<Requests extends SourceTopicName, Results extends SourceTopicName> = {
  readonly [E in EventType<Requests>]?:
    | Answering<Requests, E, Results>
    | Answering<Requests, E, Results>['answer'];
};

export interface AnswererOptions<Requests extends SourceTopicName, Results extends SourceTopicName> {
  readonly messaging: Messaging;
  readonly service: string;
  readonly requests: Requests;
  readonly results: Results;
  /** By event type. Those of other types are skipped before their value is read. */
  readonly answers: AnswersOf<Requests, Results>;
  /** Event type of the results that says why there is no answer: `{error_code, message}`. Without it nobody answers then. */
  readonly refused?: EventType<Results>;
  /** Questions answered beside each other. Default 4. */
  readonly concurrency?: number;
  /** Questions that wait for their turn; the newest of the tenant with most of them is refused beyond it. Default 128. */
  readonly maxWaiting?: number;
  /** Records of the topic that are no questions: handled as `consumeRaw` does, before their offsets move on. */
  readonly others?: { readonly eventTypes: readonly EventType<Requests>[]; readonly handler: AppendHandler };
  readonly log: Logger;
  readonly metrics: Metrics;
}

export interface Answerer {
  readonly consumer: Consumer;
  /** Questions that are being answered, and those that wait for it. */
  readonly running: number;
  readonly waiting: number;
}

interface AnyAnswering {
  accepts?(record: IntakeRecord): boolean;
  answer(record: IntakeRecord, signal: AbortSignal): Promise<AnyReply>;
}

interface AnyReply {
  readonly eventType: string;
  readonly value: object;
}

interface Asked {
  readonly record: IntakeRecord;
  readonly answering: AnyAnswering;
  readonly address: ReplyAddress;
  /** Epoch milliseconds. */
  readonly deadlineAt: number;
  /** Monotonic. */
  readonly takenAt: number;
}

type Outcome = 'answered' | 'refused' | 'failed' | 'expired' | 'unsent';

const defaultConcurrency = 4;
const defaultMaxWaiting = 128;
const maxAnswerBytes = 900_000;
const longestMs = 3_600_000;

/**
 * Answers the questions of a topic, each into the partition that it names (delivery rule 23). They are taken out of the
 * log at once and answered beside the consumer, from memory: one that is lost with the process costs its asker a deadline.
 */
export function openAnswerer<Requests extends SourceTopicName, Results extends SourceTopicName>(
  options: AnswererOptions<Requests, Results>,
): Answerer {
  const { messaging, service, requests, results, others, log } = options;
  const concurrency = options.concurrency ?? defaultConcurrency;
  const answers = answeringByType<Requests, Results>(options.answers);
  const otherTypes = new Set<string>(others?.eventTypes);
  const seconds = options.metrics.histogram('answer_seconds', {
    help: 'Seconds from the intake of a question of another service to what became of it, by its topic and that.',
    labels: ['requests', 'outcome'],
  });
  const waiting = new FairQueue<Asked>(options.maxWaiting ?? defaultMaxWaiting);
  const running = new Set<Promise<void>>();
  const stop = new AbortController();
  let stopping = false;

  const consumer = messaging.consumeRaw({
    topic: requests,
    group: service,
    accepts: ({ eventType }) => answers.has(eventType) || otherTypes.has(eventType),
    async handler(records, context) {
      const rest = records.filter(({ eventType }) => !answers.has(eventType));
      if (rest.length > 0) await others?.handler(rest, context);
      for (const record of records) take(record);
      pump();
    },
    onStopped: end,
  });

  function take(record: IntakeRecord): void {
    const answering = answers.get(record.eventType);
    const address = replyAddress(record, results);
    const deadlineAt = deadlineOf(record.value);
    if (answering === undefined || answering.accepts?.(record) === false) return;
    if (address === undefined || deadlineAt === undefined) {
      log.warning('answer.no_address', { topic: requests, eventType: record.eventType });
      return;
    }
    const asked = { record, answering, address, deadlineAt, takenAt: performance.now() };
    if (deadlineAt <= Date.now()) {
      over(asked, 'expired');
      return;
    }
    const dropped = waiting.push(record.tenant, asked);
    if (dropped !== undefined) refuse(dropped, fault('TENANT_BUSY', 'too many questions wait for an answer'));
  }

  function pump(): void {
    while (running.size < concurrency && !stopping) {
      const asked = waiting.take();
      if (asked === undefined) return;
      const run = answerOne(asked).finally(() => {
        running.delete(run);
        pump();
      });
      running.add(run);
    }
  }

  /** Never rejects. */
  async function answerOne(asked: Asked): Promise<void> {
    const { record, answering, deadlineAt } = asked;
    const leftMs = Math.min(deadlineAt - Date.now(), longestMs);
    if (leftMs <= 0) {
      over(asked, 'expired');
      return;
    }
    const deadline = AbortSignal.timeout(leftMs);
    const signal = AbortSignal.any([deadline, stop.signal]);
    const outcome = await inQuestion(asked, async (): Promise<Outcome> => {
      let reply: AnyReply;
      let answered: Outcome = 'answered';
      try {
        reply = sendable(await answering.answer(record, signal));
      } catch (error) {
        if (deadline.aborted) return 'expired';
        const why = stop.signal.aborted ? asFault(stop.signal.reason) : asFault(error);
        failed(record, why);
        const refusal = refusalOf(why);
        if (refusal === undefined) return 'failed';
        reply = refusal;
        answered = 'refused';
      }
      return (await send(asked, reply, deadline)) ? answered : deadline.aborted ? 'expired' : 'unsent';
    });
    over(asked, outcome);
  }

  function inQuestion(asked: Asked, act: () => Promise<Outcome>): Promise<Outcome> {
    const { record, address } = asked;
    const context = {
      requestId: record.headers[headerNames.requestId],
      tenantId: record.tenant,
      sessionId: record.headers[headerNames.sessionId],
    };
    const attributes = {
      'signalbox.event_type': record.eventType,
      'signalbox.asked_by': address.service,
      [attribute.eventId]: record.eventId,
      [attribute.tenantId]: record.tenant,
    };
    return runWithContext(context, () =>
      withSpan(`answer ${requests}`, { parent: record.traceparent, attributes }, async (span) => {
        const outcome = await act();
        span.setAttribute('signalbox.outcome', outcome);
        if (outcome === 'expired')
          failSpan(span, fault('TIMEOUT', 'the deadline of the question has passed'));
        return outcome;
      }),
    );
  }

  /** Whether it is in the log, in the partition that the asking instance reads. */
  async function send(asked: Asked, { eventType, value }: AnyReply, signal: AbortSignal): Promise<boolean> {
    const { record, address } = asked;
    const message = {
      ...{ topic: results, key: record.key, tenant: record.tenant, eventType, value },
      ...{ schema: topicEvents[results].schema, eventId: newId() },
      ...{ correlationId: address.correlationId, replyTo: address.service },
      sessionId: record.headers[headerNames.sessionId],
      requestId: record.headers[headerNames.requestId],
    };
    try {
      await sendNow({ messaging, service, message, partition: address.partition, signal });
      return true;
    } catch (error) {
      log.debug('answer.not_sent', { error, topic: results, eventType });
      return false;
    }
  }

  function failed(record: IntakeRecord, error: Fault): void {
    const fields = { error, topic: requests, eventType: record.eventType };
    if (error.code === 'INTERNAL_ERROR') log.error('answer.failed', fields);
    else log.debug('answer.failed', fields);
  }

  function refusalOf({ code, message }: Fault): AnyReply | undefined {
    const eventType = options.refused;
    return eventType === undefined ? undefined : { eventType, value: { error_code: code, message } };
  }

  /** Says at once that there will be no answer, without doing anything for it. */
  function refuse(asked: Asked, why: Fault): void {
    const refusal = refusalOf(why);
    over(asked, refusal === undefined ? 'failed' : 'refused');
    if (refusal === undefined) return;
    const leftMs = Math.min(Math.max(asked.deadlineAt - Date.now(), 1), longestMs);
    void inQuestion(asked, async () =>
      (await send(asked, refusal, AbortSignal.timeout(leftMs))) ? 'refused' : 'unsent',
    );
  }

  function over({ takenAt }: Asked, outcome: Outcome): void {
    seconds.record((performance.now() - takenAt) / 1_000, { requests, outcome });
  }

  /** What waits is refused, so that its asker may ask another replica; what runs may end until the signal. */
  async function end(signal: AbortSignal): Promise<void> {
    stopping = true;
    const draining = fault('DRAINING', 'this replica is stopping');
    for (let asked = waiting.take(); asked !== undefined; asked = waiting.take()) refuse(asked, draining);
    signal.addEventListener('abort', () => stop.abort(draining), { once: true });
    await Promise.race([
      Promise.all([...running]),
      new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true })),
    ]);
  }

  return {
    consumer,
    get running() {
      return running.size;
    },
    get waiting() {
      return waiting.size;
    },
  };
}

function answeringByType<Requests extends SourceTopicName, Results extends SourceTopicName>(
  answers: AnswersOf<Requests, Results>,
): ReadonlyMap<string, AnyAnswering> {
  const byType = new Map<string, AnyAnswering>();
  for (const [eventType, given] of Object.entries<AnyAnswering | AnyAnswering['answer'] | undefined>(
    answers,
  )) {
    if (given !== undefined) byType.set(eventType, typeof given === 'function' ? { answer: given } : given);
  }
  return byType;
}

/** @throws RECORD_TOO_LARGE: the broker would refuse it, and the asker would wait for nothing. */
function sendable(reply: AnyReply): AnyReply {
  const value = Buffer.from(JSON.stringify(reply.value), 'utf8');
  if (value.length > maxAnswerBytes) {
    throw fault('RECORD_TOO_LARGE', `the answer has ${value.length} bytes, over ${maxAnswerBytes}`);
  }
  return { eventType: reply.eventType, value };
}
