import { fault } from '@signalbox/faults/fault';
import type { Logger } from '@signalbox/telemetry/telemetry';
import { createKafka, singleTry } from './kafka-client.ts';
import type { KafkaSettings } from './messaging-settings.ts';

/**
 * Deletes every topic under the settings' prefix, and the groups that have no member under the same name. For tests,
 * which own their topics; refuses an empty prefix, which would be everybody's topics.
 */
export async function deleteTopics({
  settings,
  log,
}: {
  settings: KafkaSettings;
  log: Logger;
}): Promise<void> {
  const prefix = settings.kafkaTopicPrefix;
  if (prefix === '') {
    throw fault('CONFIG_INVALID', 'topics are deleted by their prefix, and there is none');
  }
  const admin = createKafka(settings, 'signalbox-topics', log, singleTry).admin();
  try {
    await admin.connect();
    const topics = (await admin.listTopics()).filter((topic) => topic.startsWith(prefix));
    if (topics.length > 0) {
      await admin.deleteTopics({ topics });
    }
    const { groups } = await admin.listGroups();
    const left = groups.map(({ groupId }) => groupId).filter((groupId) => groupId.startsWith(prefix));
    if (left.length > 0) {
      await admin.deleteGroups(left).catch(() => undefined); // one still has a member: it ends with its session timeout
    }
  } finally {
    await admin.disconnect();
  }
}
