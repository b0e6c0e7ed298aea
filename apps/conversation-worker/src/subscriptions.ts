import type { Messaging } from '@signalbox/messaging/messaging';
import { copyToolCatalog } from './copy-tool-catalog.ts';
import { type TakeMessagesParts, takeMessages } from './take-messages.ts';
import { isOurUpdate, takeTaskUpdates } from './take-task-updates.ts';
import { isOurOutcome, type TakeOutcomesParts, takeToolResults } from './take-tool-outcomes.ts';

const group = 'conversation-worker';

/** What this service reads, and by whom. All four know a repeat by their own rows. */
export function subscribe(messaging: Messaging, parts: TakeMessagesParts & TakeOutcomesParts): void {
  messaging.consume({ topic: 'tool.catalog', group, inbox: 'own-row', handler: copyToolCatalog });
  messaging.consume({ topic: 'conversation.inbound', group, inbox: 'own-row', handler: takeMessages(parts) });
  messaging.consume({
    topic: 'tool.results',
    group,
    inbox: 'own-row',
    accepts: isOurOutcome,
    handler: takeToolResults(parts),
  });
  messaging.consume({
    topic: 'delegation.updates',
    group,
    inbox: 'own-row',
    accepts: isOurUpdate,
    handler: takeTaskUpdates(parts),
  });
}
