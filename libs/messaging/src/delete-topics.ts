import { fault } from '@signalbox/faults/fault';
import type { Logger } from '@signalbox/telemetry/telemetry';
import { createKafka, fewTries } from './kafka-client.ts';
import type { KafkaSettings } from './messaging-settings.ts';

/**
 * Deletes every topic under KAFKA_TOPIC_PREFIX with its records, and the groups that read them: for stacks that share a
 * broker (tests). Without a prefix it refuses.
 */
export async function deleteTopics({
  settings,
  log,
}: {
  settings: KafkaSettings;
  log: Logger;
}): Promise<string[]> {
  const prefix = settings.kafkaTopicPrefix;
  if (prefix === '') throw fault('CONFIG_INVALID', 'topics are deleted under a prefix only');
  const admin = createKafka(settings, 'signalbox-topics', log, fewTries).admin();
  try {
    await admin.connect();
    const topics = (await admin.listTopics()).filter((name) => name.startsWith(prefix));
    if (topics.length > 0) await admin.deleteTopics({ topics });
    const { groups } = await admin.listGroups();
    const ours = groups.map(({ groupId }) => groupId).filter((group) => group.includes(prefix));
    // A group with live members cannot be deleted; it ends with its offsets' retention.
    if (ours.length > 0) await admin.deleteGroups(ours).catch(() => undefined);
    return topics;
  } finally {
    await admin.disconnect();
  }
}
