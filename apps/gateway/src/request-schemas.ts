import { SessionAction } from '@signalbox/contracts/conversation-inbound';
import { Type } from 'typebox';

const closed = { additionalProperties: false };
const OpenObject = Type.Record(Type.String(), Type.Unknown());

/** HTTP schemas are closed: what nobody reads is refused, not ignored. */
export const PostMessageBody = Type.Object(
  {
    session_id: Type.Optional(
      Type.String({ description: 'Of an earlier answer. Without it a new session is made.' }),
    ),
    persona_id: Type.Optional(Type.String({ minLength: 1, maxLength: 128 })),
    message: Type.String({ minLength: 1 }),
    attachments: Type.Optional(Type.Array(OpenObject, { maxItems: 64 })),
    metadata: Type.Optional(OpenObject),
    multitask_strategy: Type.Optional(
      Type.Enum(['enqueue', 'reject', 'interrupt'], {
        description:
          'What the message does when turns of its session are unfinished: wait behind them (when left out), be refused by turn.rejected, or cancel them and run next.',
      }),
    ),
  },
  { ...closed, examples: [{ message: 'What is 6 * 7?' }] },
);

export const PostedMessageReply = Type.Object({
  session_id: Type.String({ format: 'uuid' }),
  event_id: Type.String({ format: 'uuid' }),
  turn_id: Type.String({ format: 'uuid' }),
});

export const PostActionBody = Type.Object(
  {
    session_id: Type.String(),
    action: Type.Enum(['cancel']),
    turn_id: SessionAction.properties.turn_id,
    reason: Type.Optional(
      Type.String({ minLength: 1, maxLength: 500, description: 'Told with turn.cancelled.' }),
    ),
  },
  {
    ...closed,
    examples: [{ session_id: '0192f0c1-7a5e-7c3e-9f6a-2f1d3c4b5a69', action: 'cancel' }],
  },
);

export const ActionReply = Type.Object({
  session_id: Type.String({ format: 'uuid' }),
  event_id: Type.String({ format: 'uuid' }),
  action: Type.String(),
});

/** Not checked for its form: what is no id is no session of anybody's, which is 404 and not 422. */
export const SessionParams = Type.Object({ id: Type.String({ description: 'Session id' }) });

export const StreamQuery = Type.Object(
  {
    last_event_id: Type.Optional(
      Type.String({ description: 'Instead of the header Last-Event-ID, for browsers, which cannot set it.' }),
    ),
  },
  closed,
);

const limit = (maximum: number) =>
  Type.Optional(Type.Integer({ minimum: 1, maximum, description: 'Entries of a page' }));

export const EventPageQuery = Type.Object(
  { after: Type.Optional(Type.String({ description: 'Stream id; events behind it' })), limit: limit(1000) },
  closed,
);
export const SessionPageQuery = Type.Object(
  {
    before: Type.Optional(Type.String({ description: 'Session id; sessions made before it' })),
    limit: limit(200),
  },
  closed,
);
export const HistoryQuery = Type.Object(
  { before: Type.Optional(Type.String({ description: 'Turn id; turns before it' })), limit: limit(200) },
  closed,
);

export const EventPage = Type.Object({
  events: Type.Array(
    Type.Object({
      id: Type.String(),
      event: Type.String(),
      data: OpenObject,
      stored_at: Type.String({ format: 'date-time' }),
    }),
  ),
  next_after: Type.Union([Type.String(), Type.Null()], { description: 'Null when this page is the last' }),
});

export const SessionPage = Type.Object({
  sessions: Type.Array(
    Type.Object({
      session_id: Type.String({ format: 'uuid' }),
      persona_id: Type.String(),
      created_at: Type.String({ format: 'date-time' }),
      last_message_at: Type.Union([Type.String({ format: 'date-time' }), Type.Null()]),
    }),
  ),
  next_before: Type.Union([Type.String(), Type.Null()]),
});

export const History = Type.Object({
  turns: Type.Array(
    Type.Object({
      turn_id: Type.String({ format: 'uuid' }),
      event_id: Type.String({ format: 'uuid' }),
      persona_id: Type.String(),
      message: Type.String(),
      attachments: Type.Optional(Type.Array(OpenObject)),
      metadata: Type.Optional(OpenObject),
      accepted_at: Type.String({ format: 'date-time' }),
      answer: Type.Union([
        Type.Null(),
        Type.Object({
          id: Type.String(),
          event: Type.String(),
          data: OpenObject,
          ended_at: Type.String({ format: 'date-time' }),
        }),
      ]),
    }),
    {
      description:
        'Oldest first; an open turn has no answer yet, one past SESSION_EVENTS_KEEP_DAYS none any more',
    },
  ),
  next_before: Type.Union([Type.String(), Type.Null()]),
});

export const ToolList = Type.Object({
  tools: Type.Array(
    Type.Object({
      name: Type.String(),
      description: Type.String(),
      parameters: OpenObject,
      idempotent: Type.Boolean(),
      timeout_ms: Type.Integer(),
      enabled: Type.Boolean(),
      version: Type.Integer(),
    }),
  ),
});
