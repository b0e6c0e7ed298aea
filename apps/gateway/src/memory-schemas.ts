import { MemoryRole, Namespace } from '@signalbox/contracts/fields';
import { RecalledMemory } from '@signalbox/contracts/memory-recall';
import { maxMemoryText } from '@signalbox/contracts/memory-writes';
import { Type } from 'typebox';

const closed = { additionalProperties: false };
const OpenObject = Type.Record(Type.String(), Type.Unknown());
const Namespaces = Type.Array(Namespace, { minItems: 1, maxItems: 16, uniqueItems: true });

export const PostMemoryBody = Type.Object(
  {
    text: Type.String({ minLength: 1, maxLength: maxMemoryText }),
    namespace: Type.Optional(Namespace),
    session_id: Type.Optional(Type.String({ description: 'A session that this was learned in.' })),
    role: Type.Optional(MemoryRole),
    memory_id: Type.Optional(
      Type.String({
        pattern: '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$',
        description:
          'Of a memory whose text this replaces as its next version; it is made where there is none.',
      }),
    ),
    occurred_at: Type.Optional(
      Type.String({ format: 'date-time', description: 'When it was said; now, when left out.' }),
    ),
    expires_at: Type.Optional(
      Type.String({ format: 'date-time', description: 'After this it is not recalled any more.' }),
    ),
    metadata: Type.Optional(OpenObject),
  },
  { ...closed, examples: [{ text: 'Ada prefers answers in French.', role: 'note' }] },
);

export const MemoryReply = Type.Object({
  memory_id: Type.String({ format: 'uuid' }),
  event_id: Type.String({ format: 'uuid' }),
});

/** Not checked for its form: what is no id is no memory of anybody's, which is 404 and not 422. */
export const MemoryParams = Type.Object({ id: Type.String({ description: 'Memory id' }) });

export const SearchBody = Type.Object(
  {
    query: Type.String({ minLength: 1, maxLength: 8_192 }),
    namespaces: Type.Optional(Namespaces),
    session_id: Type.Optional(Type.String({ description: 'Memories of this session count for more.' })),
    roles: Type.Optional(Type.Array(MemoryRole, { minItems: 1, maxItems: 4, uniqueItems: true })),
    limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 50, description: '10, when left out.' })),
    min_score: Type.Optional(Type.Number({ minimum: 0, maximum: 1 })),
  },
  { ...closed, examples: [{ query: 'language', limit: 5 }] },
);

export const SearchReply = Type.Object({
  memories: Type.Array(RecalledMemory, { description: 'Best first.' }),
  took_ms: Type.Number({ description: 'What the search took where the memories are.' }),
});

export const ExportQuery = Type.Object(
  {
    namespace: Type.Optional(Namespace),
    session_id: Type.Optional(Type.String({ description: 'Memories of this session alone.' })),
  },
  closed,
);

export const MemoryExportBody = Type.Object(
  {
    namespaces: Type.Optional(Namespaces),
    session_id: Type.Optional(Type.String({ description: 'Memories of this session alone.' })),
  },
  { ...closed, examples: [{ namespaces: ['default'] }] },
);
