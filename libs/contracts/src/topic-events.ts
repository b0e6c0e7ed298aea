import { type Static, type TSchema, Type } from 'typebox';
import { conversationInboundEvents, conversationInboundSchema } from './conversation-inbound.ts';
import {
  conversationOutboundEvents,
  conversationOutboundSchema,
  TurnEvent,
} from './conversation-outbound.ts';
import { delegationTasksEvents, delegationTasksSchema } from './delegation-tasks.ts';
import { delegationUpdatesEvents, delegationUpdatesSchema } from './delegation-updates.ts';
import { CallId, Id } from './fields.ts';
import { jobsCommandsEvents, jobsCommandsSchema, jobsResultsEvents, jobsResultsSchema } from './jobs.ts';
import {
  memoryRecallRequestsEvents,
  memoryRecallRequestsSchema,
  memoryRecallResultsEvents,
  memoryRecallResultsSchema,
} from './memory-recall.ts';
import { memoryWalEvents, memoryWalSchema } from './memory-wal.ts';
import { memoryWritesEvents, memoryWritesSchema } from './memory-writes.ts';
import { toolCatalogEvents, toolCatalogSchema } from './tool-catalog.ts';
import { toolRequestsEvents, toolRequestsSchema } from './tool-requests.ts';
import { toolResultsEvents, toolResultsSchema } from './tool-results.ts';
import type { SourceTopicName } from './topics.ts';
import { turnResultsEvents, turnResultsSchema } from './turn-results.ts';
import { uiNotificationsEvents, uiNotificationsSchema } from './ui-notifications.ts';

/**
 * What a topic carries: its schema name and the value of each event type. `unknownEvent` is the form of an event type
 * that a later release may add: a consumer of this one passes it on or skips it. A topic of commands has none, since an
 * order that nobody can carry out must become a dead letter and not disappear.
 */
export interface TopicEvents {
  readonly schema: string;
  readonly events: Readonly<Record<string, TSchema>>;
  readonly unknownEvent?: TSchema;
}

export const topicEvents = {
  'conversation.inbound': { schema: conversationInboundSchema, events: conversationInboundEvents },
  'conversation.outbound': {
    schema: conversationOutboundSchema,
    events: conversationOutboundEvents,
    unknownEvent: TurnEvent,
  },
  'tool.requests': { schema: toolRequestsSchema, events: toolRequestsEvents },
  'tool.results': {
    schema: toolResultsSchema,
    events: toolResultsEvents,
    unknownEvent: Type.Object({ call_id: CallId }),
  },
  'tool.catalog': { schema: toolCatalogSchema, events: toolCatalogEvents },
  'turn.results': {
    schema: turnResultsSchema,
    events: turnResultsEvents,
    unknownEvent: Type.Object({ turn_id: Id }),
  },
  'memory.writes': { schema: memoryWritesSchema, events: memoryWritesEvents },
  'memory.wal': { schema: memoryWalSchema, events: memoryWalEvents },
  'memory.recall.requests': { schema: memoryRecallRequestsSchema, events: memoryRecallRequestsEvents },
  'memory.recall.results': {
    schema: memoryRecallResultsSchema,
    events: memoryRecallResultsEvents,
    unknownEvent: Type.Object({}),
  },
  'delegation.tasks': { schema: delegationTasksSchema, events: delegationTasksEvents },
  'delegation.updates': {
    schema: delegationUpdatesSchema,
    events: delegationUpdatesEvents,
    unknownEvent: Type.Object({ task_id: Id }),
  },
  'ui.notifications': { schema: uiNotificationsSchema, events: uiNotificationsEvents },
  'jobs.commands': { schema: jobsCommandsSchema, events: jobsCommandsEvents },
  'jobs.results': { schema: jobsResultsSchema, events: jobsResultsEvents, unknownEvent: Type.Object({}) },
} as const satisfies Record<SourceTopicName, TopicEvents>;

/** The event types of a topic. */
export type EventType<T extends SourceTopicName> = keyof (typeof topicEvents)[T]['events'] & string;

/** The value of an event type of a topic. */
export type EventValue<T extends SourceTopicName, E extends EventType<T>> = Static<
  Extract<(typeof topicEvents)[T]['events'][E], TSchema>
>;
