import type { MultitaskStrategy } from '@signalbox/contracts/conversation-inbound';
import { newId } from '@signalbox/contracts/ids';
import { sessionKey } from '@signalbox/contracts/keys';
import type { ToolCancelRequested, ToolRequested } from '@signalbox/contracts/tool-requests';
import type { IntakeRecord, Messaging } from '@signalbox/messaging/messaging';
import { type OutgoingMessage, toRecord } from '@signalbox/messaging/outgoing';
import type { TestDatabase } from '@signalbox/testkit/database';
import { type SpawnedService, spawnService } from '@signalbox/testkit/service';
import { type StandIn, startStandIn } from '@signalbox/testkit/stand-in';
import { openSurroundings, type Surroundings } from '@signalbox/testkit/surroundings';
import { waitFor } from '@signalbox/testkit/wait';

export const tenant = 'acme';

const workerSettings = {
  DATABASE_POOL_SIZE: '4',
  MODEL_NAME: 'test-model',
  TURN_LEASE_MS: '2000',
  LOG_LEVEL: 'DEBUG',
};

/** An event of a session's stream as its log has it. */
export interface OutboundEvent {
  readonly type: string;
  readonly offset: bigint;
  readonly key: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly value: { readonly turn_id: string; readonly attempt: number; readonly [field: string]: unknown };
  /** When it was read here (monotonic), and when its producer sent it (epoch milliseconds). */
  readonly at: number;
  readonly sentAtMs: number;
}

export interface Posted {
  readonly sessionId: string;
  readonly turnId: string;
  readonly eventId: string;
}

export interface ToolCall {
  readonly key: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly value: ToolRequested;
}

/** A tool.cancel_requested, and when it was read. */
export interface ToolCancel {
  readonly key: string;
  readonly value: ToolCancelRequested;
  readonly at: number;
}

export interface PostOptions {
  readonly sessionId?: string;
  readonly personaId?: string;
  readonly strategy?: MultitaskStrategy;
  /** The turn carries out a task of delegation-worker, which is told its end under this id. */
  readonly task?: { readonly task_id: string; readonly depth: number };
}

export interface ActOptions {
  readonly turnId?: string;
  readonly reason?: string;
}

/** A request as the stand-in model shows it. */
export interface ModelRequestSeen {
  readonly at: string;
  readonly conversation: {
    readonly system: string;
    readonly messages: readonly { role: string; text: string }[];
  };
  readonly ended?: 'whole' | 'broken';
  readonly ended_at?: string;
}

/** A fault order of the stand-in model (dev/simulators/model/README.md). */
export type FaultOrder = Readonly<Record<string, string | number | boolean>>;

/**
 * Everything around workers: a database, topics, the stand-in model, the gateway's part (posting, reading the stream) and
 * the executor's (reading requests, sending outcomes).
 */
export class Conversation implements AsyncDisposable {
  readonly outbound: OutboundEvent[] = [];
  readonly requests: ToolCall[] = [];
  readonly toolCancels: ToolCancel[] = [];
  #groups = 0;
  readonly #around: Surroundings;
  readonly #model: StandIn;

  private constructor(around: Surroundings, model: StandIn) {
    this.#around = around;
    this.#model = model;
    const keep = (into: (record: IntakeRecord) => unknown) => async (records: readonly IntakeRecord[]) =>
      records.forEach(into);
    this.messaging.consumeRaw({
      topic: 'conversation.outbound',
      group: 'test-gateway',
      handler: keep((record) => this.outbound.push(outboundEvent(record))),
    });
    this.messaging.consumeRaw({
      topic: 'tool.requests',
      group: 'test-executor',
      handler: keep(({ key, headers, eventType, value }) => {
        if (eventType === 'tool.requested')
          this.requests.push({ key, headers, value: value as ToolRequested });
        else this.toolCancels.push({ key, value: value as ToolCancelRequested, at: performance.now() });
      }),
    });
  }

  get database(): TestDatabase {
    return this.#around.database;
  }

  get messaging(): Messaging {
    return this.#around.messaging;
  }

  static async start(): Promise<Conversation> {
    const [around, model] = await Promise.all([
      openSurroundings({ asOwner: true, env: workerSettings }),
      startStandIn('model'),
    ]);
    const conversation = new Conversation(around, model);
    await conversation.#seed();
    return conversation;
  }

  /** A worker process of its own on these parts, ready. */
  async worker(env: Record<string, string> = {}): Promise<SpawnedService> {
    const worker = await this.spawn(env);
    await worker.ready();
    return worker;
  }

  /** The same without waiting for its consumers: taking a turn over needs the database alone. */
  spawn(env: Record<string, string> = {}): Promise<SpawnedService> {
    return spawnService('conversation-worker', this.environment(env));
  }

  environment(env: Record<string, string> = {}): Record<string, string> {
    const { env: common, topics } = this.#around;
    return {
      ...common,
      // Of its own, so that nobody waits until the broker has given up a killed member. Each group reads every message,
      // and the turns' own rows know the repeats.
      KAFKA_GROUP_ID: `${topics.prefix}${++this.#groups}`,
      MODEL_BASE_URL: this.#model.url,
      ...env,
    };
  }

  async persona(personaId: string, limits: Record<string, number> = {}, profile = 'default'): Promise<void> {
    await this.database.query(
      `insert into conversation_worker.personas (tenant, persona_id, system_prompt, model_profile, tools, limits)
       values ($1, $2, $3, $4, $5, $6) on conflict (tenant, persona_id) do update set limits = excluded.limits`,
      [tenant, personaId, `You are ${personaId}.`, profile, ['echo', 'calculator'], limits],
    );
  }

  /** Sets the faults of the stand-in model. */
  faults(...orders: readonly FaultOrder[]): Promise<void> {
    return this.#model.faults(...orders);
  }

  /** The last requests that the model has seen, of which some message has this text in it. */
  async seenByModel(text = ''): Promise<ModelRequestSeen[]> {
    const seen = await this.#model.read<ModelRequestSeen[]>('/admin/requests');
    return seen.filter(({ conversation }) =>
      conversation.messages.some((message) => message.text.includes(text)),
    );
  }

  async post(message: string, options: PostOptions = {}): Promise<Posted> {
    const posted = { sessionId: options.sessionId ?? newId(), turnId: newId(), eventId: newId() };
    await this.send(this.posted(posted, message, options));
    return posted;
  }

  posted(
    { sessionId, turnId, eventId }: Posted,
    message: string,
    { personaId = 'assistant', strategy, task }: PostOptions = {},
  ): OutgoingMessage {
    return {
      topic: 'conversation.inbound',
      key: sessionKey(tenant, sessionId),
      ...{ tenant, sessionId, eventId, eventType: 'message.posted', schema: 'conversation.inbound.v1' },
      requestId: `request-of-${turnId}`,
      ...(task === undefined ? {} : { replyTo: 'delegation-worker', correlationId: task.task_id }),
      value: {
        ...{ session_id: sessionId, turn_id: turnId, event_id: eventId, persona_id: personaId, message },
        ...(strategy === undefined ? {} : { multitask_strategy: strategy }),
        ...(task === undefined ? {} : { delegation: task }),
        accepted_at: new Date().toISOString(),
      },
    };
  }

  /** Asks for the end of a turn, or of all of a session. Answers the action's event id. */
  async cancel(sessionId: string, options: ActOptions = {}): Promise<string> {
    const action = this.action(sessionId, options);
    await this.send(action);
    return action.eventId;
  }

  action(sessionId: string, { turnId, reason }: ActOptions = {}): OutgoingMessage {
    const eventId = newId();
    return {
      topic: 'conversation.inbound',
      key: sessionKey(tenant, sessionId),
      ...{ tenant, sessionId, eventId, eventType: 'session.action', schema: 'conversation.inbound.v1' },
      value: {
        ...{ session_id: sessionId, event_id: eventId, action: 'cancel' },
        ...(turnId === undefined ? {} : { turn_id: turnId }),
        ...(reason === undefined ? {} : { reason }),
        requested_at: new Date().toISOString(),
      },
    };
  }

  /** A turn's row; undefined before its intake. */
  async rowOf(turnId: string): Promise<{ state: string; attempt: number } | undefined> {
    const [row] = await this.database.query<{ state: string; attempt: number }>(
      'select state, attempt from conversation_worker.turns where id = $1',
      [turnId],
    );
    return row;
  }

  /** Sends a record as its producer would. */
  async send(message: OutgoingMessage): Promise<void> {
    const { topic, key, headers, value } = toRecord(message, message.traceparent, 'test');
    if (value === null) throw new Error('no tombstones here');
    await this.messaging.producer.direct({ topic, key, headers, value });
  }

  /** The n-th request (from 0) of a turn for a tool. */
  request(turnId: string, n = 0): Promise<ToolCall> {
    return waitFor(
      () => this.requests.filter(({ value }) => value.turn_id === turnId)[n],
      (call): call is ToolCall => call !== undefined,
      { label: `tool request ${n} of ${turnId}`, timeoutMs: 20_000 },
    );
  }

  /** Answers a request as the executor would; echo gives its text back unless told otherwise. */
  async answer(call: ToolCall, outcome: Record<string, unknown> = {}, eventId = newId()): Promise<void> {
    const { call_id, turn_id, session_id, step, tool } = call.value;
    await this.send({
      topic: 'tool.results',
      key: call.key,
      ...{ tenant, sessionId: session_id, eventId, eventType: 'tool.outcome', schema: 'tool.results.v1' },
      correlationId: call_id,
      replyTo: 'conversation-worker',
      traceparent: call.headers.traceparent,
      value: {
        ...{
          call_id,
          turn_id,
          session_id,
          step,
          tool,
          outcome: 'ok',
          output: String(call.value.arguments.text),
        },
        ...{ truncated: false, duration_ms: 1, ...outcome },
      },
    });
  }

  eventsOf(turnId: string): OutboundEvent[] {
    return this.outbound.filter(({ value }) => value.turn_id === turnId);
  }

  /** Waits for an event of a turn. */
  event(turnId: string, type: string, timeoutMs = 15_000, n = 0): Promise<OutboundEvent> {
    return waitFor(
      () => this.eventsOf(turnId).filter((event) => event.type === type)[n],
      (event): event is OutboundEvent => event !== undefined,
      {
        label: `${type} of ${turnId}, events ${JSON.stringify(this.eventsOf(turnId).map(({ type: t }) => t))}`,
        timeoutMs,
      },
    );
  }

  final(turnId: string, timeoutMs?: number): Promise<OutboundEvent> {
    return this.event(turnId, 'assistant.final', timeoutMs);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#around.close().catch(() => undefined);
    await this.#model.close();
  }

  get modelNoise(): readonly string[] {
    return this.#model.launched.noise;
  }

  async #seed(): Promise<void> {
    await this.persona('assistant');
    await this.database.query(
      `insert into conversation_worker.model_profiles (tenant, name, max_output_tokens, fallback, model)
       values ($1, 'default', 4096, null, null), ($1, 'with-fallback', 4096, 'second', 'first-model'),
              ($1, 'second', 4096, null, 'second-model')`,
      [tenant],
    );
    for (const [name, parameters] of [
      ['echo', { type: 'object', properties: { text: { type: 'string' } }, required: ['text'] }],
      [
        'calculator',
        { type: 'object', properties: { expression: { type: 'string' } }, required: ['expression'] },
      ],
    ] as const) {
      await this.database.query(
        `insert into conversation_worker.tools (tenant, name, description, parameters, timeout_ms, enabled, version)
         values ($1, $2, $2, $3, 1000, true, 1)`,
        [tenant, name, parameters],
      );
    }
  }
}

function outboundEvent({ eventType, offset, key, headers, value, timestampMs }: IntakeRecord): OutboundEvent {
  return {
    type: eventType,
    offset,
    key,
    headers,
    value: value as OutboundEvent['value'],
    at: performance.now(),
    sentAtMs: timestampMs,
  };
}
