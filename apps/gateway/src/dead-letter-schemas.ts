import { sourceTopics } from '@signalbox/contracts/topics';
import { Type } from 'typebox';

const closed = { additionalProperties: false };
const Instant = Type.String({ format: 'date-time' });
const OrNull = <T extends Parameters<typeof Type.Union>[0][number]>(schema: T) =>
  Type.Union([schema, Type.Null()]);

/** Not checked for their form: what is no topic or no id is nobody's dead letter, which is 404 and not 422. */
export const TopicParams = Type.Object({
  topic: Type.String({ description: 'Of the record, not its .dlq', examples: [...sourceTopics] }),
});
export const DeadLetterParams = Type.Object({
  topic: TopicParams.properties.topic,
  id: Type.String({ description: 'Dead letter id' }),
});

export const DeadLetterPageQuery = Type.Object(
  {
    state: Type.Optional(
      Type.Union([Type.Literal('waiting'), Type.Literal('replayed'), Type.Literal('all')], {
        description: 'waiting, where none is given: those that nobody has replayed',
      }),
    ),
    before: Type.Optional(Type.String({ description: 'Dead letter id; dead letters put aside before it' })),
    limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 200, description: 'Entries of a page' })),
  },
  closed,
);

export const PurgeQuery = Type.Object(
  {
    created_before: Type.String({
      format: 'date-time',
      description: 'Those put aside before this are deleted',
    }),
  },
  closed,
);

const summary = {
  id: Type.String({ format: 'uuid' }),
  topic: Type.String(),
  partition: OrNull(
    Type.Integer({ description: 'Null for a record that the broker refused: it is in no log' }),
  ),
  offset: OrNull(Type.String()),
  timestamp: OrNull(Instant),
  consumer: Type.String({
    description: 'Consumer group that could not handle it; outbox where the broker refused it',
  }),
  reason: Type.String({
    description:
      'bad_key, bad_headers, not_json, schema, content, handler, declared (by its handler), broker_refused',
  }),
  attempts: Type.Integer(),
  key: OrNull(Type.String()),
  event_id: OrNull(Type.String()),
  event_type: OrNull(Type.String()),
  replay_of: OrNull(Type.String({ description: 'Event or dead letter that this record was a replay of' })),
  value_bytes: OrNull(Type.Integer()),
  created_at: Instant,
  replayed_at: OrNull(Instant),
  replayed_as: OrNull(Type.String({ description: 'Event id of its replay' })),
};

export const DeadLetterPage = Type.Object({
  dead_letters: Type.Array(Type.Object(summary)),
  next_before: Type.Union([Type.String(), Type.Null()], { description: 'Null when this page is the last' }),
});

export const WholeDeadLetter = Type.Object({
  ...summary,
  detail: Type.String({ description: 'What was wrong, for people' }),
  headers: Type.Record(Type.String(), Type.String()),
  value_base64: OrNull(Type.String({ description: 'The bytes; null for a record without a value' })),
  value_text: OrNull(Type.String({ description: 'The same as text; null where they are not UTF-8' })),
  traceparent: OrNull(Type.String({ description: 'Where in its trace it failed' })),
});

/** Nothing of it: the record goes out as it was. */
export const ReplayBody = Type.Object(
  {
    value: Type.Optional(
      Type.Record(Type.String(), Type.Unknown(), {
        description: 'The whole corrected value. Only for conversation.inbound.',
      }),
    ),
    event_type: Type.Optional(
      Type.String({ minLength: 1, maxLength: 128, description: 'Where that of the record was wrong' }),
    ),
  },
  closed,
);

export const ReplayReply = Type.Object({
  dead_letter_id: Type.String({ format: 'uuid' }),
  event_id: Type.String({ format: 'uuid', description: 'Of the new record' }),
  replay_of: Type.String(),
  topic: Type.String(),
  session_id: Type.Optional(Type.String()),
});

export const PurgeReply = Type.Object({
  purged: Type.Integer(),
  more: Type.Boolean({ description: 'There may be more: ask again, under another Idempotency-Key' }),
});
